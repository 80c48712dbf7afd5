"""The distillation losses: pure functions of student and teacher outputs, by what they compare.

Legend for shapes: b images, a anchor points, c channels or classes, l levels, h and w cells, n chosen anchors. All are
computed in float32 and averaged so that they do not depend on batch size or on the number of anchors.
"""
