import re

from cast.progress import Progress


def test_lines_carry_share_pace_and_what_is_left(capsys):
    progress = Progress("adapt", 4, seconds=0.0, unit="image")
    progress.started -= 10
    progress.report(1, "sup 2.000")
    progress.report(4)
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"adapt: image 1/4 \(25 %\)  sup 2\.000  10\.0\d\d s/image  ETA 0:00:30", first)
    assert re.fullmatch(r"adapt: image 4/4 \(100 %\)  2\.5\d\d s/image  took 0:00:10", last)


def test_a_line_is_due_after_the_interval_and_at_the_end():
    progress = Progress("adapt", 4, seconds=60.0)
    assert [progress.due(done) for done in (1, 3, 4)] == [False, False, True]
    progress.last -= 60
    assert progress.due(1)
