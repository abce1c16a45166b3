"""A package as it lies in site-packages: its module, and a dist-info with its entry points."""

from pathlib import Path


def install(
    folder: Path, package: str, entry_points: dict[str, str], modules: dict[str, str]
) -> Path:
    """Write the package into the folder, which is then put on the path.

    Args:
        folder: made where it is not there.
        package: its name; its version is 1.0.
        entry_points: targets by name, of the group `chipscale.devices`.
        modules: sources by module name.
    """
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[chipscale.devices]", *lines, ""]))
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return folder
