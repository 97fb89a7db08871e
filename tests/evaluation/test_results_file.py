"""Files in the COCO results format: what is written comes back; damaged files are named."""

import pytest

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.results_file import read_results, write_results


def test_results_files(tmp_path):
    path = tmp_path / "captions.json"
    write_results(path, {"1.jpg": "a dog", "2.jpg": "ein café"})
    assert read_results(path) == {"1.jpg": "a dog", "2.jpg": "ein café"}
    assert list(tmp_path.iterdir()) == [path]
    for content, message in [
        ("[", "not a COCO"),
        ('[{"image_id": 1}]', "not a COCO"),
        ('[{"image_id": 1, "caption": null}]', "not a COCO"),
        ('[{"image_id": null, "caption": "a"}]', "not a COCO"),
        ('{"image_id": 1, "caption": "a"}', "not a COCO"),
        (
            '[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]',
            r"twice \(1\); evaluate again",
        ),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=f"{path}.*{message}"):
            read_results(path)
    with pytest.raises(UserError, match="not there"):
        read_results(tmp_path / "none.json")
