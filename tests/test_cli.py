"""The command line through its real door: words, exit codes, and one small run of the whole path."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import zarr
from commands import parsed, run
from generating import write_folder, write_tar
from stores import make_store, random_logits, seal

import relabel.summary
import relabel.verify
from relabel.cli import main
from relabel.cli.ranks import rank_and_world_size
from relabel.cli.text import failure_lines, shards_text, table
from relabel.findings import Finding
from relabel.plan import Failure
from relabel.verify import ShardsReport

ROOT = Path(__file__).parents[1]
TEACHER = ("--teacher", "test_resnet", "--random-weights", "0", "--image-size", "64", "--quiet", "--device", "cpu")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards; the last image failed."""
    path = tmp_path / "labels.zarr"
    make_store(path, [["a.jpg", "b.jpg"], ["c.jpg"]], random_logits(3, 12, (2, 3)), failed=frozenset({"c.jpg"}))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images in two class folders, and one file that is no image."""
    root = tmp_path_factory.mktemp("input") / "photos"
    write_folder(root, 5)
    (root / "even" / "broken.jpg").write_bytes(b"not an image")
    (root / "even" / "phone.HEIC").write_bytes(b"not to be read")
    return root


@pytest.fixture(scope="module")
def tar(photos: Path) -> Path:
    """The same in one tar, with the same ground truths."""
    members = []
    for file in sorted(photos.glob("*/*")):
        key, truth = f"{file.parent.name}-{file.stem}", str(["even", "odd"].index(file.parent.name))
        members += [(key + file.suffix, file.read_bytes()), (f"{key}.cls", truth.encode())]
    return write_tar(photos.with_suffix(".tar"), members)


def test_a_folder_becomes_labels_that_verify_and_inspect(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, classes = tmp_path / "labels.zarr", tmp_path / "classes.txt"
    classes.write_text("3 tabby\n5 red fox\n7 lynx\n")
    teacher = (*TEACHER, "--classes", classes, "--samples-per-shard", 4)
    made = run("generate", photos, store, *teacher, "--max-failures", 0.5)
    assert made.exit_code == 0, made.output
    assert f"{store}: 2 shards published, 0 were there already, of 2" in made.stdout
    assert "even/broken.jpg" in made.stdout
    assert "left out: 1 .heic; an image ends in one of avif, bmp," in made.stdout
    assert made.stderr == ""
    warned = caplog.messages[0]
    assert warned.startswith("the images are of 2 classes ('even', 'odd'), the teacher of 3 ('tabby', 'red fox', ")
    assert warned.endswith("with --classes FILE")

    again = run("generate", photos, store, *teacher, "--json")
    summary = parsed(again.stdout)
    assert (again.exit_code, summary["shards_published"], summary["shards_skipped"]) == (1, 0, 2)
    assert summary["failed_earlier"] == 1
    assert summary["left_out"] == {".heic": 1}

    verified = run("verify", "shards", store, "--images", photos, "--quiet", "--json")
    report = parsed(verified.stdout)
    assert (verified.exit_code, report["is_clean"], report["findings"]) == (0, True, [])
    assert (report["labeled"], report["failed"], report["images_compared"]) == (5, 1, 6)

    inspected = parsed(run("inspect", store, "--json").stdout)
    assert inspected["manifest"]["teacher"]["name"] == "test_resnet"
    assert inspected["manifest"]["preprocessing"]["image_size_hw"] == [64, 64]
    assert inspected["labels"] == {"0": 3, "1": 2}
    assert (inspected["class_spaces"]["are_same"], inspected["first_class_is_label"]) == (False, None)
    assert sum(inspected["first_classes"].values()) == 5
    assert relabel.open(store).class_names == ("tabby", "red fox", "lynx")
    shown = run("inspect", store).stdout
    assert "other classes  the images are of 2 classes ('even', 'odd'), the teacher of 3" in shown
    assert re.search(r"first class +-; most often [012] '(tabby|red fox|lynx)': [1-5]", shown)
    assert "2 to 3 images each (most: 0 'even': 3, 1 'odd': 2)" in shown
    told = run("teacher", TEACHER[1], "--random-weights", 0, "--classes", classes).stdout
    assert re.search(r"classes +3: 0 'tabby' ... 2 'lynx'\nkept +file: 3 of the teacher's 1000 classes", told)


def test_a_list_of_files_is_images_to_every_command(photos: Path, tmp_path: Path) -> None:
    listed, store, archive = tmp_path / "list.txt", tmp_path / "labels.zarr", tmp_path / "archive"
    listed.write_text("odd/003.png\tdog\neven/000.png\tcat\nodd/001.png\tdog\n")
    images = ("--images", photos, "--files", listed, "--quiet")
    assert run("generate", photos, store, *TEACHER, "--files", listed).exit_code == 0
    maps = relabel.open(store)
    assert list(maps.keys()) == ["odd/003.png", "even/000.png", "odd/001.png"]
    assert maps.manifest.data.class_names == ("cat", "dog")
    assert parsed(run("verify", "shards", store, *images, "--json").stdout)["images_compared"] == 3
    assert run("verify", "labels", store, *images, "-n", 2).exit_code == 0
    (archive / "even").mkdir(parents=True)
    torch.save(torch.tensor([[[[1.5]], [[0.5]]], [[[7.0]], [[9.0]]]]), archive / "even" / "000.pt")
    assert run("import", "relabel", archive, tmp_path / "import.zarr", *images).exit_code == 1
    assert run("verify", "shards", tmp_path / "import.zarr", *images).exit_code == 0
    for command in (("verify", "shards", store), ("verify", "labels", store)):
        assert run(*command, "--files", listed).exit_code == 2
    assert "Missing option '--images'" in run("verify", "labels", store).stderr


def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "list").write_text("odd/001.png\neven/000.png\n")
    (tmp_path / "classes").write_text("3 tabby\n5 red fox\n7 lynx\n")
    archive = tmp_path / "archive" / "even"
    archive.mkdir(parents=True)
    torch.save(torch.tensor([[[[1.5]], [[0.5]]], [[[7.0]], [[9.0]]]]), archive / "000.pt")
    monkeypatch.chdir(photos)
    images, listed = ("--images", "~/photos", "--files", "~/list", "--quiet"), ("--files", "~/list")
    made = run("generate", "~/photos", "~/labels.zarr", *TEACHER, *listed, "--classes", "~/classes")
    assert made.exit_code == 0, made.output
    assert run("verify", "shards", "~/labels.zarr", *images, "--repair", "--from", "~/labels.zarr").exit_code == 0
    assert run("verify", "labels", "~/labels.zarr", *images, "-n", 2, "--classes", "~/classes").exit_code == 0
    assert run("import", "relabel", "~/archive", "~/import.zarr", *images).exit_code == 1
    assert run("inspect", "~/import.zarr").exit_code == 0
    assert run("diff", "~/labels.zarr", "~/labels.zarr", "--quiet").exit_code == 0
    assert "no such checkpoint" not in run("teacher", "test_resnet", "--checkpoint", "~/classes").stderr
    assert len(relabel.open("~/labels.zarr")) == 2
    assert not (photos / "~").exists()


def test_a_tar_gets_the_labels_of_the_folder_on_macos_too(
    photos: Path, tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    stores = []
    for images in (photos, tar):
        stores.append(tmp_path / f"{images.name}.zarr")
        made = run("generate", images, stores[-1], *TEACHER, "--max-failures", 1)
        assert made.exit_code == 0, made.output
        assert run("verify", "shards", stores[-1], "--images", images, "--quiet").exit_code == 0
    folder, tars = (zarr.open_group(store, mode="r") for store in stores)
    assert [key.partition(".")[0].replace("/", "-") for key in folder["key"][0]] == tars["key"][0].tolist()
    for name in ("classes", "scores", "profile", "label", "image_hash", "status"):
        np.testing.assert_array_equal(folder[name][:], tars[name][:])


def test_too_many_failures_exit_with_1(photos: Path, tmp_path: Path) -> None:
    made = run("generate", photos, tmp_path / "labels.zarr", *TEACHER)
    assert made.exit_code == 1
    assert "more failed than --max-failures 0.01 accepts" in made.stdout


def test_a_clean_store_is_told_so(store: Path) -> None:
    result = run("verify", "shards", store, "--quiet")
    assert result.exit_code == 0
    assert result.stdout.startswith("2 shards, 3 images: 2 labelled, 1 failed; ")
    assert result.stdout.endswith(" s\nclean\n")
    assert result.stderr == ""


def test_a_digest_is_printed_and_compared(store: Path) -> None:
    digest = run("inspect", store, "--digest").stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert json.loads(run("inspect", store, "--json").stdout)["digest"] == digest
    assert f"digest         {digest}" in run("inspect", store).stdout
    assert run("verify", "shards", store, "--quiet", "--digest", digest).exit_code == 0
    other = run("verify", "shards", store, "--quiet", "--digest", "0" * 64)
    assert (other.exit_code, f"its digest is {digest}, and not 000" in other.stdout) == (1, True)
    assert run("verify", "shards", store, "--digest", "x").exit_code == 2


def test_each_finding_is_a_line_and_the_exit_code_1(store: Path) -> None:
    group = zarr.open_group(store, mode="r+")
    group["label"][0, 1] = -7
    group["key"][1, 0] = "d.jpg"
    seal(store)
    result = run("verify", "shards", store, "--quiet")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:4] == [
        "shard  row  key    what",
        "-----  ---  -----  ------------------------------------------------------------------",
        "-      -    -      the keys are not those that the manifest's fingerprint was made of",
        "0      1    b.jpg  label -7 is neither a class nor -1 (unknown)",
    ]
    assert result.stdout.splitlines()[-1] == "2 findings"
    report = parsed(run("verify", "shards", store, "--quiet", "--json").stdout)
    assert [(f["shard"], f["row"], f["key"]) for f in report["findings"]] == [(-1, -1, ""), (0, 1, "b.jpg")]


def test_inspect_prints_what_a_store_is(store: Path) -> None:
    facts = dict(line.split(None, 1) for line in run("inspect", store).stdout.splitlines() if len(line.split()) > 1)
    assert facts["teacher"] == "by hand (unknown weights), given head, float32"
    assert facts["map"] == "grid 2x3 of the whole image"
    assert facts["classes"] == "12: 3 planes, 4 profile classes an image"
    assert facts["images"] == "2 labelled, 1 failed"
    assert facts["ground"].split(None, 1)[1] == "2 classes, 1 to 1 images each (most: 0: 1, 1: 1)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "{}/absent"], "absent is not there. Give the folder"),
        (["verify", "shards", "{}"], "is not a relabel store"),
        (["verify", "shards", "{}/labels.zarr", "--images", "{}/absent.tar"], "no such file"),
        (["generate", "{}/absent", "{}/new.zarr", "--teacher", "test_resnet"], "no such file"),
        (
            ["generate", "{}", "{}/new.zarr", "--teacher", "x", "--random-weights", "0", "--checkpoint", __file__],
            "not both",
        ),
        (
            ["generate", "{}", "{}/new.zarr", "--teacher", "x", "--random-weights", "0", "--random-weights", "1"],
            "1 teachers and 2 times --random-weights",
        ),
    ],
)
def test_an_error_is_a_sentence_on_stderr_and_the_exit_code_2(
    store: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = run(*(argument.format(tmp_path) for argument in arguments), "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert said in result.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            PermissionError(13, "Permission denied", "labels.zarr"),
            2,
            "error: [Errno 13] Permission denied: 'labels.zarr'\n",
        ),
    ],
)
def test_ctrl_c_and_the_file_system_end_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(relabel.verify, "verify_shards", fails)
    result = run("verify", "shards", "labels.zarr")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", said)


def test_a_reader_that_goes_away_is_no_error(store: Path) -> None:
    # Nothing of Python's shutdown may complain either, so this is a process.
    command = [sys.executable, "-m", "relabel", "inspect", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_help_waits_for_no_heavy_library() -> None:
    code = (
        "import sys, relabel.cli as c; c.main(['--help'], standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert {"numpy", "torch", "timm", "zarr", "relabel.store"} & set(done.stderr.split()) == set()


@pytest.mark.parametrize("words", [[], ["verify"]])
def test_every_group_says_what_it_does_with_an_example(words: list[str]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"relabel {' '.join(words)}".strip() in result.stdout.partition("Example:")[2]


def test_control_characters_of_data_files_never_reach_the_terminal(store: Path, tmp_path: Path) -> None:
    hostile = "x\x1b[31m\r\nred\x07"
    group = zarr.open_group(store, mode="r+")
    group["key"][0, 0] = hostile
    (store / "label" / "c.9\x1b[2J").write_bytes(b"")
    manifest = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(manifest.replace('"by hand"', json.dumps(hostile)))
    seal(store)
    outputs = [run("verify", "shards", store, "--quiet"), run("inspect", store), run("inspect", tmp_path / "\x07")]
    assert [output.exit_code for output in outputs] == [1, 0, 2]
    for output in outputs:
        assert [c for c in output.output if not c.isprintable() and c != "\n"] == []
    assert "x\N{REPLACEMENT CHARACTER}[31m red\N{REPLACEMENT CHARACTER}" in outputs[1].stdout


def test_twenty_findings_of_a_kind_are_enough_for_a_person() -> None:
    findings = tuple(Finding(0, row, "", f"wrong by {row}") for row in range(1002))
    report = ShardsReport(
        shards=1,
        shards_in_store=1,
        images=1002,
        labeled=1002,
        failed=0,
        images_compared=0,
        seconds=1.0,
        findings=findings,
        damaged=(),
    )
    lines = shards_text(report).splitlines()
    assert sum("wrong" in line for line in lines) == 21
    assert lines[-5:] == [
        "and 982 more: wrong by 0",
        "--json has them all",
        "",
        "1 shard, 1002 images: 1002 labelled, 0 failed; 1.0 s",
        "1002 findings",
    ]


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    assert table(("n", "name"), [(5, "a"), (10, "bb")]).splitlines() == [" n  name", "--  ----", " 5  a", "10  bb"]


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["photos", "store", "--image-size", "320", "480"], "image_size_hw", ((320, 480),)),
        (["--image-size", "320", "480", "photos", "store"], "image_size_hw", ((320, 480),)),
        (["photos", "--image-size", "320", "480", "store"], "image_size_hw", ((320, 480),)),
        (["--image-size=320x480", "photos", "store"], "image_size_hw", ((320, 480),)),
        (["--planes", "5", "--image-size", "3", "4", "--profile", "7", "photos", "store"], "image_size_hw", ((3, 4),)),
        (["photos", "store", "--grid", "7", "9", "--mean", "0.5", "0.5", "0.4"], "grid_hw", (7, 9)),
        (["photos", "store", "--grid", "7"], "grid_hw", (7, 7)),
        (["--grid", "teacher", "photos", "store"], "grid_hw", "teacher"),
        (["--image-size", "320", "--", "photos", "store"], "image_size_hw", ((320, 320),)),
        (["--scales", "1.0", "1.25", "2", "photos", "store"], "scales", (1.0, 1.25, 2.0)),
        (["--mean", "0.5", "0.4", ".3", "--std=1,1,1", "photos", "store"], "mean", (0.5, 0.4, 0.3)),
        (["--image-size", "64", "96", "--image-size", "32", "photos", "store"], "image_size_hw", ((64, 96), (32, 32))),
    ],
)
def test_numbers_may_follow_one_another_wherever_an_option_stands(
    arguments: list[str], name: str, value: object
) -> None:
    given = main.commands["generate"].make_context("generate", ["--teacher", "t", *arguments]).params
    assert (given["images"], given["store"], given[name]) == ("photos", Path("store"), value)


def test_a_teacher_is_shown_before_anything_is_labeled() -> None:
    arguments = ("test_vit", "--random-weights", "0", "--device", "cpu", "--grid", "5", "--flip-average")
    text, machine = run("teacher", *arguments), run("teacher", *arguments, "--json")
    assert (text.exit_code, machine.exit_code) == (0, 0)
    assert "grid 10x10, a cell is 16 x 16 pixels" in text.stdout
    assert "an image's map: the mean of 2 forward passes, on a grid of 5x5 cells" in text.stdout
    shown = parsed(machine.stdout)
    assert (shown["grid_hw"], shown["num_classes"], shown["flip_average"]) == ([5, 5], 1000, True)
    assert shown["members"][0]["constant_error"] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image-size", "²"], "'--image-size': '²' is not what is expected: 2 whole numbers"),
        (["--scales", "big"], "'big' is not what is expected: one or more numbers, each above 0 and at most 8"),
        (["--rank", "1"], "give --rank and --world-size together"),
        (["--world-size", "4"], "give --rank and --world-size together"),
        (["--rank", "4", "--world-size", "4"], "got 4 of 4"),
    ],
)
def test_a_wrong_value_is_a_usage_error(arguments: list[str], said: str) -> None:
    result = run("generate", "photos", "store", "--teacher", "t", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: relabel")
    assert said in result.stderr


def test_a_store_behind_a_url_cannot_be_written() -> None:
    result = run("generate", "photos", "s3://bucket/labels.zarr", "--teacher", "t")
    assert result.exit_code == 2
    assert "is a URL" in result.stderr


SRUN = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
        (SRUN, (2, 8)),
        # torchrun, started once a node by srun, has the finer share.
        (SRUN | {"RANK": "9", "WORLD_SIZE": "16"}, (9, 16)),
        # A batch script that does not call srun is alone, however many tasks its job may have.
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NPROCS": "8"}, (0, 1)),
        # The shell of an interactive job is a single task of srun's.
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, (0, 1)),
        # Half of what a launcher says is no share.
        ({"RANK": "3"}, (0, 1)),
        ({"WORLD_SIZE": "4"}, (0, 1)),
        ({"RANK": "", "WORLD_SIZE": ""}, (0, 1)),
    ],
)
def test_the_share_that_the_environment_gives(environment: dict[str, str], share: tuple[int, int]) -> None:
    assert rank_and_world_size(None, None, environment) == share


def test_options_decide_before_the_environment() -> None:
    assert rank_and_world_size(0, 2, SRUN | {"RANK": "9", "WORLD_SIZE": "16"}) == (0, 2)


@pytest.mark.parametrize("environment", [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "-1", "WORLD_SIZE": "4"}])
def test_a_share_that_cannot_be_is_a_usage_error(environment: dict[str, str]) -> None:
    with pytest.raises(click.UsageError, match="RANK and WORLD_SIZE must be"):
        rank_and_world_size(None, None, environment)


def test_a_share_from_the_environment_is_never_taken_unseen(photos: Path, tmp_path: Path) -> None:
    alone = ("generate", photos, tmp_path / "labels.zarr", *TEACHER, "--samples-per-shard", 3, "--max-failures", 1)
    first = run(*alone, RANK="0", WORLD_SIZE="2")
    assert first.stderr == "process 0 of 2 (torchrun): labels its share of the shards\n"
    assert "1 shard published, 0 were there already, of 1" in first.stdout
    assert run("verify", "shards", tmp_path / "labels.zarr", "--quiet").exit_code == 1
    run(*alone, RANK="1", WORLD_SIZE="2")
    assert run("verify", "shards", tmp_path / "labels.zarr", "--quiet").exit_code == 0


def test_of_many_failures_the_first_are_told_and_the_others_counted() -> None:
    failures = tuple(Failure(0, f"cat/{i}.jpg", "cut") for i in range(25))
    told, listed, more = failure_lines(failures, 5)
    assert told == "30 failures:"
    assert listed.splitlines()[2:] == [f"    0  cat/{i}.jpg{'' if i > 9 else ' '}  cut" for i in range(20)]
    assert more == "and 10 more; the store's `error` array has them all"
    assert failure_lines((), 0) == []
    assert len(failure_lines(failures[:20], 0)) == 2
