"""Images without images: what a teacher has seen is read back from its BatchNorm statistics and its detections."""
