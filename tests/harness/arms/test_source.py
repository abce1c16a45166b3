"""What `base=` may name, and what is said of a name that is not there."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from harness.arms.git import checkout
from harness.arms.source import Revision, StoredRun, Tree, Wheel, parse_source, running_tree
from harness.arms.tree import digest_of, opened
from harness.errors import ConfigError, RecordError
from tests.harness.sample_run import RUN_ID, write_run


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def make_tree(folder: Path) -> Path:
    """The least that is a checkout of chipscale."""
    for part in ("harness", "kernels", "configs"):
        (folder / part).mkdir(parents=True)
        (folder / part / "__init__.py").write_text("")
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tree(tmp_path_factory.mktemp("repository"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=one")
    git(folder, "tag", "v1.0")
    (folder / "kernels" / "gemm.py").write_text("FASTER = True\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=two")
    return folder


def parsed(text: str, repository: Path, results_dir: Path) -> object:
    return parse_source("base", text, results_dir, repository)


@pytest.mark.parametrize("name", ["v1.0", "HEAD~1", "main~1", "git:v1.0"])
def test_a_revision_is_found_however_git_lets_it_be_written(
    name: str, repository: Path, tmp_path: Path
) -> None:
    found = parsed(name, repository, tmp_path)
    assert isinstance(found, Revision)
    assert found.commit == git(repository, "rev-parse", "v1.0")


def test_an_unknown_revision_is_told_with_the_near_ones(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'mian' is no revision .* Near are main\."):
        parsed("mian", repository, tmp_path)


def test_a_name_that_git_would_take_for_an_option_is_no_revision(
    repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no revision"):
        parsed("--all", repository, tmp_path)


def test_outside_a_repository_a_revision_is_told_to_need_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"in no git repository.*wheel, a folder"):
        parsed("main", make_tree(tmp_path / "here"), tmp_path)


def test_a_run_is_found_by_its_folder_and_by_its_id(repository: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs").path
    for text in (str(folder), RUN_ID, f"run:{RUN_ID}", "latest"):
        found = parsed(text, repository, tmp_path)
        assert isinstance(found, StoredRun)
        assert found.folder.path == folder


def test_a_run_without_records_is_no_baseline(repository: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", records=()).path
    with pytest.raises(RecordError, match="no record yet"):
        parsed(str(folder), repository, tmp_path)


def test_a_corrupt_run_is_told_by_its_file(repository: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs").path
    (folder / "run.json").write_text("{")
    with pytest.raises(RecordError, match=r"run\.json: not JSON"):
        parsed(str(folder), repository, tmp_path)


def test_a_folder_without_chipscale_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither run\.json.*harness/__init__\.py"):
        parsed(str(tmp_path), repository, tmp_path)


def test_tree_is_the_running_code(repository: Path, tmp_path: Path) -> None:
    found = parsed("tree", repository, tmp_path)
    assert isinstance(found, Tree)
    assert found.path == repository


def test_a_checkout_is_of_its_commit_and_gone_afterwards(repository: Path) -> None:
    with checkout(repository, git(repository, "rev-parse", "v1.0")) as folder:
        assert not (folder / "kernels" / "gemm.py").exists()
        assert digest_of(folder) != digest_of(repository)
    assert not folder.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_checkout_is_gone_also_after_a_failure(repository: Path) -> None:
    def fail() -> None:
        with checkout(repository, "HEAD"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def make_wheel(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_a_wheel_overlays_what_is_installed_for_its_arm_alone(
    repository: Path, tmp_path: Path
) -> None:
    # pluggy is installed here, in another version.
    wheel = make_wheel(tmp_path, "pluggy", "99.1")
    source = parsed(str(wheel), repository, tmp_path)
    assert isinstance(source, Wheel)
    with opened("base", source, running_tree(), tmp_path) as arm:
        assert arm.root == running_tree()
        assert arm.overlay is not None
        assert (arm.overlay / "pluggy" / "__init__.py").exists()
        assert arm.digest != digest_of(running_tree())
        paths = arm.environment(tmp_path)["PYTHONPATH"]
    assert paths.startswith(f"{arm.overlay}:")
    assert not arm.overlay.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip archive"])
def test_a_file_that_is_no_wheel_is_told(content: bytes, repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "triton-3.6-py3-none-any.whl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no wheel, or a damaged one"):
        parsed(str(path), repository, tmp_path)


def test_an_archive_without_metadata_is_no_wheel(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "some-1.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some.py", "")
    with pytest.raises(ConfigError, match="no METADATA"):
        parsed(str(path), repository, tmp_path)


def test_an_arm_whose_code_does_not_import_is_told_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    tree = make_tree(tmp_path / "broken")
    (tree / "harness" / "__init__.py").write_text("import nothing_of_that_name\n")
    source = Tree(label="broken", path=tree)
    with (
        pytest.raises(ConfigError, match="does not import here: ModuleNotFoundError"),
        opened("head", source, tree, tmp_path),
    ):
        pass
