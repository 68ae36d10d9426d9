"""Whatever is edited in a manifest is refused, found, or changes no label; `make edits` tries many more."""

from __future__ import annotations

from store.manifest_edits import KINDS, campaign, store

from relabel.verify import verify_shards


def test_no_edit_of_a_manifest_serves_a_wrong_label(tmp_path):
    path = store(tmp_path / "s.zarr")
    assert verify_shards(path, show_progress=False).is_clean
    ends = campaign(path, 200)
    assert {kind for kind, _, _ in ends} == set(KINDS)
    assert {end for _, _, end in ends} <= {"refused", "no effect", "found by verify"}
