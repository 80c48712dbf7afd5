"""What trials leave on their way, and who goes on with it."""

from pathlib import Path

from nasdistill.store.rungs import TRAINING_NAME, hand_over_training


def test_the_newest_training_is_handed_over_and_no_other_stays(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    hand_over_training(folders[:3], folders[3])
    assert not list(tmp_path.glob("*/*"))
    for folder in folders[:2]:  # the third was killed before its first rung
        (folder / TRAINING_NAME).write_text(folder.name)
    hand_over_training(folders[:3], folders[3])
    assert [path.parent.name for path in tmp_path.glob("*/*")] == ["3"]
    assert (folders[3] / TRAINING_NAME).read_text() == "1"
