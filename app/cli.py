"""The command `hepaseg`. Everything heavy is imported by the command that needs it, so that `--help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.errors import HepasegError, InvalidPrior, InvalidReference, InvalidRequest

if TYPE_CHECKING:
    from app.settings import Settings

EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hepaseg")
def main() -> None:
    """Liver and liver lesions out of an abdominal CT: masks, volumes, a row per lesion.

    A research tool, not a medical device. Settings are environment variables that begin with HEPASEG_.
    """


@main.command()
@click.option("--host", help="Address to listen on (HEPASEG_HOST).")
@click.option("--port", type=int, help="Port to listen on (HEPASEG_PORT).")
@click.option("--open", "show", is_flag=True, help="Show the service's page in the browser once it listens.")
def serve(host: str | None, port: int | None, show: bool) -> None:
    """Run the service: HTTP and one worker, with a database and a folder on local disk."""
    from app.main import serve as run_service

    with _errors_as_messages():
        run_service(_settings(host=host, port=port), on_listening=_show_page if show else None)


@main.command()
def worker() -> None:
    """Run one worker on the service's database until it is stopped."""
    from app.jobs.worker import main as run_worker

    with _errors_as_messages():
        run_worker(_settings())


@main.command("dicom-node")
def dicom_node() -> None:
    """Take CT series by DICOM C-STORE until stopped, and have the service's workers segment them."""
    from app.dicom.node import main as run_node

    with _errors_as_messages():
        run_node(_settings())


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=EXISTING)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder.")
@click.option("--reference", type=EXISTING, help="Labels 0, 1, 2 on the scan's grid; a folder for several scans.")
@click.option("--prior", type=EXISTING, help="Output folder of an earlier scan, or its labels: says what changed.")
@click.option("--series", help="Which series of a zip with several: its UID, or how it ends.")
@click.option("--crf-backend", type=click.Choice(["onnx", "pydensecrf", "none"]), help="HEPASEG_CRF_BACKEND.")
@click.option("--threads", type=click.IntRange(0), help="0 takes all cores (HEPASEG_THREADS).")
@click.option("--models", type=EXISTING, help="Folder with manifest.json (HEPASEG_MODELS_DIR).")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no table.")
@click.option("--open", "show", is_flag=True, help="Show the page of the result in the browser at the end.")
def segment(  # noqa: PLR0913, PLR0917 - one argument for each option of the command
    inputs: tuple[Path, ...],
    output: Path,
    reference: Path | None,
    prior: Path | None,
    series: str | None,
    crf_backend: str | None,
    threads: int | None,
    models: Path | None,
    quiet: bool,
    show: bool,
) -> None:
    """Segment one or more scans without a server. A folder stands for every scan in it.

    One scan: its files go straight to the output folder; several: each gets a folder of its own there. sheet.html is a
    page for people; of several scans, summary.html is one over them. With --prior, follow_up.csv has a row per lesion.
    A run over several that was ended goes on where it was: what its receipt still states is not made again.
    Exits with 0 if all went well, 1 if a scan failed, 2 if the command was wrong.
    """
    from app.batch import find_cases, segment_all

    with _errors_as_messages():
        cases = find_cases(inputs, reference, output, series, prior)
        settings = _settings(crf_backend=crf_backend, threads=threads, models_dir=models)
        failed = segment_all(cases, output, settings, quiet=quiet, show=show)
    sys.exit(1 if failed else 0)


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder.")
@click.option("--reference", type=FOLDER, help="Folder with the references, if they do not lie beside the scans.")
@click.option("--results", type=FOLDER, help="Folder with labels made before, by any program: nothing is segmented.")
@click.option("--models", type=EXISTING, help="Folder with manifest.json (HEPASEG_MODELS_DIR).")
def evaluate(folder: Path, output: Path, reference: Path | None, results: Path | None, models: Path | None) -> None:
    """Segment a folder of scans and compare with their references: tables, intervals, the worst cases as pictures.

    A run that was ended goes on where it was; cases that failed are tried again. Exits with 0 if every case was
    scored, 1 if one failed or got no answer, 2 if the command was wrong.
    """
    from app.evaluation.cases import find_cases
    from app.evaluation.run import evaluate as evaluate_all

    with _errors_as_messages():
        cases = find_cases(folder, reference, results, output)
        failed = evaluate_all(cases, output, _settings(models_dir=models), segments=results is None)
    sys.exit(1 if failed else 0)


@main.command()
@click.option("--ct", required=True, type=EXISTING, help="A CT as NIfTI.")
@click.option("--reference", type=EXISTING, help="Its true labels: 0, 1, 2 on the same grid.")
@click.option("-o", "--output", default=Path("build/demo"), type=click.Path(path_type=Path), show_default=True)
def demo(ct: Path, reference: Path | None, output: Path) -> None:
    """Start the service, send it a scan, watch it work, show and save what comes back."""
    from app.demo import run_demo

    with _errors_as_messages():
        sys.exit(run_demo(ct, reference, output))


@main.command()
@click.option("--models", type=EXISTING, help="Folder with manifest.json (HEPASEG_MODELS_DIR).")
def models(models: Path | None) -> None:
    """Check the networks and print their cards."""
    from app.inference.manifest import load_networks

    with _errors_as_messages():
        settings = _settings(models_dir=models)
        for network in load_networks(settings.models_dir, settings.runtime()):
            click.echo(network.card.model_dump_json(indent=2))
            click.echo(f"sha256 {network.sha256}")


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--key", type=EXISTING, help="Public key in PEM that must have signed.")
def verify(folder: Path, key: Path | None) -> None:
    """Check the receipt in a folder of results: its signature, and that every file is as it was written."""
    from app.replay import verify as verify_results

    with _errors_as_messages():
        verify_results(folder, key, click.echo)


@main.command()
@click.argument("folder", type=FOLDER)
@click.argument("scan", type=EXISTING)
@click.option("--reference", type=EXISTING, help="The reference, if the answer was compared with one.")
@click.option("--prior", type=EXISTING, help="The prior's folder or labels, if the answer was compared with one.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder.")
@click.option("--models", type=EXISTING, help="Folder with manifest.json (HEPASEG_MODELS_DIR).")
def replay(
    folder: Path, scan: Path, reference: Path | None, prior: Path | None, output: Path, models: Path | None
) -> None:
    """Run again what the receipt in FOLDER states about SCAN, and compare what comes out byte for byte.

    Exits with 1 if it comes out otherwise.
    """
    from app.batch import prior_files
    from app.replay import Given
    from app.replay import replay as run_again

    with _errors_as_messages():
        given = Given(scan, reference, *prior_files(prior))
        run_again(folder, given, output, _settings(models_dir=models), click.echo)


def _show_page(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        click.echo(f"There is no browser here that could be opened. The page: {url}", err=True)


def _settings(**given: object) -> Settings:
    """Settings from the environment, overridden by the options that were given. Raises InvalidRequest."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = [f"HEPASEG_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        raise InvalidRequest(f"{'; '.join(faults)}. docs/settings.md says what each may be.") from None


class _errors_as_messages:  # noqa: N801 - reads as a statement
    """Shows our own errors as one sentence on stderr with exit status 1; a bug keeps its traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HepasegError):
            click.echo(f"hepaseg: {error.title}: {error.detail} [{error.code}]", err=True)
            # What was typed is wrong, or what it was about.
            sys.exit(2 if isinstance(error, InvalidRequest | InvalidReference | InvalidPrior) else 1)
        if isinstance(error, OSError):
            click.echo(f"hepaseg: {error.strerror}: {error.filename}. Is HEPASEG_DATA_DIR right?", err=True)
            sys.exit(1)
        if type(error).__module__ == "sqlalchemy.exc":
            reason = getattr(error, "orig", error)
            click.echo(f"hepaseg: the database cannot be used: {reason}. Is HEPASEG_DATA_DIR right?", err=True)
            sys.exit(1)


if __name__ == "__main__":
    main()
