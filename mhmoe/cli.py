"""The command line: the same engine as the app, without a browser.

Results go to stdout, sentences about them to stderr. Exit codes: 0 done; 1 it was tried and
failed (a file that is missing or damaged, a blank text, a run that had to stop); 2 it was asked
for wrongly (an unknown name, options that do not go together, a device that is not there).

The commands import what they need when they run, so that ``--help`` does not wait for torch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mhmoe import __version__, bench

if TYPE_CHECKING:
    import torch

    from mhmoe.models.engine import Loaded
    from mhmoe.models.images import DecodedImage
    from mhmoe.trace import Input, RoutingTrace
    from mhmoe.training.loop import Job
    from mhmoe.training.measure import Subject
    from mhmoe.training.processes import World
    from mhmoe.training.recipe import Recipe

Result = TypeVar("Result")

FIRST_TOKENS = 12  # of a trace's summary
FIELDS = (
    "name",
    "kind",
    "router",
    "experts",
    "top_k",
    "heads",
    "params_total",
    "params_active",
    "macs_per_token",
    "metrics",
    "snapshots",
)


class Failed(Exception):
    """Something that was tried and did not work; the message is the sentence for stderr."""


class Usage(Exception):
    """Something that was asked for wrongly; likewise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    for stream in (sys.stdout, sys.stderr):  # a narrow encoding must not stop a summary
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _guarded(args)
    except Usage as error:
        code = 2
        _say(str(error))
    except Failed as error:
        code = 1
        _say(str(error))
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    return code


def _guarded(args: argparse.Namespace) -> int:
    """Run the command; every error that a wrong input can cause becomes one of our two."""
    from mhmoe.models.checkpoint import CheckpointError
    from mhmoe.models.device import DeviceError
    from mhmoe.models.engine import InputProblem
    from mhmoe.models.images import ImageProblem
    from mhmoe.training.loop import TrainingError
    from mhmoe.training.measure import MeasureError, UnknownModel
    from mhmoe.training.processes import Told
    from mhmoe.training.recipe import RecipeError, UnknownRecipe
    from mhmoe.training.scenes import PhotographsMissing
    from mhmoe.training.text import CorpusError

    try:
        args.command(args)
    except Told:
        return 1
    except (DeviceError, UnknownModel, UnknownRecipe) as error:
        raise Usage(error) from None
    except (
        CheckpointError,
        InputProblem,
        ImageProblem,
        MeasureError,
        RecipeError,
        TrainingError,
        CorpusError,
        PhotographsMissing,
    ) as error:
        raise Failed(error) from None
    sys.stdout.flush()  # so that a closed pipe is noticed here
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m mhmoe",
        description="What Mixture-of-Experts routers do, on real models.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad usage.",
    )
    top.add_argument("--version", action="version", version=f"mhmoe {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    models = commands.add_parser("models", help="list the models")
    models.set_defaults(command=list_models)

    routers = commands.add_parser("routers", help="list the routers of the literature")
    routers.set_defaults(command=list_routers)

    trace = commands.add_parser(
        "trace", help="route a text, a picture, or a picture and its caption together"
    )
    _trace_options(trace)

    evaluate = commands.add_parser("evaluate", help="measure a model on your own data")
    data = evaluate.add_mutually_exclusive_group(required=True)
    data.add_argument("--text-file", metavar="F", type=Path, help="a UTF-8 file")
    data.add_argument("--image-dir", metavar="D", type=Path, help="a folder of picture files")
    data.add_argument(
        "--scenes",
        metavar="N",
        type=bench.count,
        help="N generated scenes that no model was trained on, with the class of each",
    )
    evaluate.set_defaults(command=show_metrics)

    for command in (models, routers, trace, evaluate):
        command.add_argument("--json", action="store_true", help="print JSON")
    for command in (trace, evaluate):
        command.add_argument("--model", metavar="NAME", required=True)
    speed = commands.add_parser("bench", help="measure the speed of the app or of the layers")
    bench.options(speed)
    speed.set_defaults(command=run_bench)
    measure = commands.add_parser(
        "measure", help="measure models on held-out data, into one results file"
    )
    _measure_options(measure)
    logs = commands.add_parser("logs", help="collect the logs of a family's runs for the pages")
    logs.add_argument("family", metavar="FAMILY", help="a file's name in recipes/families")
    logs.add_argument("--runs", metavar="DIR", type=Path, help="where the runs are; as --state")
    logs.add_argument("--out", metavar="FILE", type=Path, help="instead of the folder of the pages")
    logs.set_defaults(command=collect_logs)
    train = commands.add_parser("train", help="train a model, or go on where its run stopped")
    _train_options(train)
    for command in (trace, evaluate, measure, train):
        command.add_argument(
            "--device",
            metavar="DEVICE",
            help="auto, cpu, cuda or mps; default: MHMOE_DEVICE, else auto",
        )
    return top


def _trace_options(trace: argparse.ArgumentParser) -> None:
    source = trace.add_mutually_exclusive_group()
    source.add_argument("--text", metavar="S", help="the text itself")
    source.add_argument("--text-file", metavar="F", type=Path, help="a UTF-8 file")
    trace.add_argument("--image", metavar="F", type=Path, help="a picture file")
    trace.add_argument(
        "--step",
        metavar="N",
        type=int,
        help="the model as it was after N steps of its training; `models --json` names the steps",
    )
    trace.add_argument(
        "--out", metavar="FILE", type=Path, help="also write the trace as safetensors"
    )
    trace.set_defaults(command=show_trace)


def _measure_options(measure: argparse.ArgumentParser) -> None:
    measure.add_argument(
        "names", metavar="NAME", nargs="*", help="models, or with --runs runs or recipes; all"
    )
    measure.add_argument(
        "--text-dir",
        metavar="D",
        type=Path,
        help="sentences, for text models: <language>/plain_dev.txt[.gz]",
    )
    measure.add_argument(
        "--runs", metavar="DIR", type=Path, help="measure the finished runs in this folder instead"
    )
    measure.add_argument(
        "--treebanks",
        metavar="D",
        type=Path,
        help="also measure word classes, on <language>.conllu[.gz] in this folder",
    )
    measure.add_argument(
        "--words",
        metavar="D",
        type=Path,
        help="also measure words of two meanings, by the lists in this folder",
    )
    measure.add_argument(
        "--boundaries",
        metavar="D",
        type=Path,
        help="also measure image models on photographs with the boundaries that people marked: "
        "PART/NAME.jpg and PART_boundaries/NAME.png (grey) in this folder",
    )
    measure.add_argument(
        "--costs",
        action="store_true",
        help="also measure time and memory, which hold for this machine only",
    )
    measure.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the results file, in which other models stay; default: results.json here",
        default=Path("results.json"),
    )
    measure.set_defaults(command=run_measuring)


def _train_options(train: argparse.ArgumentParser) -> None:
    train.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or a .toml file")
    train.add_argument("--seed", metavar="N", type=seed, help="instead of the recipe's")
    train.add_argument(
        "--text-dir",
        metavar="D",
        type=Path,
        help="sentences: <language>/plain_train.txt[.gz] and plain_dev.txt[.gz]",
    )
    train.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help="where unfinished runs are kept; default: MHMOE_STATE, else "
        "this user's folder for program state",
    )
    start = train.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        dest="fresh",
        action="store_false",
        help="go on from the saved state, if there is one (default)",
    )
    start.add_argument("--fresh", action="store_true", help="discard the saved state")
    train.add_argument(
        "--ship",
        action=argparse.BooleanOptionalAction,
        help="when finished, write the checkpoint and its card to the models; without either, "
        "if the recipe says so",
    )
    train.set_defaults(command=run_training, fresh=False)


def seed(value: str) -> int:
    """For argparse, which calls a wrong value an "invalid seed value"."""
    number = int(value)
    if number < 0:
        raise ValueError
    return number


# ---------------------------------------------------------------------------- models


def list_models(args: argparse.Namespace) -> None:
    from mhmoe.models import checkpoint

    rows = [_model_row(checkpoint.card(name)) for name in checkpoint.names()]
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        _say(f"There are no models in {checkpoint.folder()}.")
    for row in rows:
        experts = f"E={row['experts']} k={row['top_k']}" if row["experts"] else "dense"
        print(
            f"{row['name']:<14} {row['kind']:<5} {experts:<8} h={row['heads']}  "
            f"{row['params_total']:>10,} parameters, {row['params_active']:>10,} active, "
            f"{row['macs_per_token']:>10,} MACs/token  {_short(row['metrics'])}".rstrip()
        )


def _model_row(card: dict) -> dict:
    from mhmoe.models import checkpoint
    from mhmoe.models.config import ModelConfig

    config = ModelConfig.from_dict(card["config"])
    moe = config.moe
    row = {
        "name": card["name"],
        "kind": config.kind,
        "router": config.router,
        "experts": moe.experts if moe else None,
        "top_k": moe.top_k if moe else None,
        "heads": config.heads,
        "metrics": card.get("metrics", {}),
        "snapshots": checkpoint.steps(card),
    }
    return {field: row[field] if field in row else card[field] for field in FIELDS}


def _short(metrics: dict) -> str:
    if "bits_per_byte" in metrics:
        return f"{metrics['bits_per_byte']:.3f} bits per byte"
    if "relative_error" not in metrics:
        return ""
    error = f"{metrics['relative_error']:.3f} of the baseline's error"
    if "class_accuracy" in metrics:
        error += f", {metrics['class_accuracy']:.1%} of the classes"
    return error


# ---------------------------------------------------------------------------- routers


def list_routers(args: argparse.Namespace) -> None:
    from mhmoe.layers import METHODS, SWITCHES

    if args.json:
        rows = [row.to_dict() | {"switches": SWITCHES | row.switches} for row in METHODS.values()]
        print(json.dumps(rows, indent=1))
        return
    for row in METHODS.values():
        print(f"{row.key:<20} {row.title}: {row.paper}")
        print(f"{'':<20} {row.sentence}")
        settings = [f"{name}={value}" for name, value in row.switches.items()]
        settings += [f"{name} loss x {weight:g}" for name, weight in row.loss_weights.items()]
        print(f"{'':<20} {', '.join(settings) or 'all switches as they are'}")


# ---------------------------------------------------------------------------- trace


def show_trace(args: argparse.Namespace) -> None:
    given = {"image": args.image, "text": args.text is not None or args.text_file}
    if not any(given.values()):
        raise Usage("Give --text, --text-file or --image; a picture and its caption go together.")
    kind = "-".join(name for name, value in given.items() if value)
    trace = _with_model(args, (kind,), lambda loaded: _trace(args, loaded))
    if args.out:
        _save(trace, args.out)
    if args.json:
        print(json.dumps(trace.to_dict()))
    else:
        print("\n".join(summary(trace)))


def _trace(args: argparse.Namespace, loaded: Loaded) -> RoutingTrace:
    from mhmoe.models import engine

    config = loaded.model.config
    picture = _picture(args.image, config.grid * config.patch) if args.image else None
    if config.kind == "image":
        return engine.trace_image(loaded, picture)[0]
    text = _text(args)
    if config.kind == "text":
        trace = engine.trace_text(loaded, text)[0]
        used = trace.input.count
    else:
        trace = engine.trace_pair(loaded, text, picture)[0]
        used = trace.input.caption.count
    if (total := engine.count_tokens(text)) > used:
        _say(
            f"The text has {total} tokens; the first {used} were used, which is "
            "this model's context."
        )
    return trace


def _text(args: argparse.Namespace) -> str:
    from mhmoe.models import engine

    if args.text_file:
        return engine.read_text(args.text_file)
    # bytes of the command line that are not UTF-8 arrive as lone surrogates
    return args.text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _picture(path: Path, side: int) -> DecodedImage:
    from mhmoe.models.images import decode

    try:
        return decode(path.read_bytes(), side)
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error.strerror}.") from None


def _save(trace: RoutingTrace, path: Path) -> None:
    from safetensors import SafetensorError

    try:
        trace.save(path)
    except (OSError, SafetensorError) as error:
        raise Failed(f"The trace could not be written to {path}: {error}.") from None


def summary(trace: RoutingTrace) -> list[str]:
    """A trace in a few lines, for people."""
    source = trace.input
    lines = [f"{trace.source.name}: {_seen(source)}"]
    if trace.bits_per_byte is not None:
        lines[0] += f", {trace.bits_per_byte:.3f} bits per byte"
    if not trace.layers:
        return [*lines, "A dense model: every token takes the same path, nothing is routed."]
    lines.append(f"heads {trace.heads}; demand of each expert, in % of all choices:")
    for layer in trace.layers:
        shares = 100 * layer.demand / layer.demand.sum()
        lines.append(f"  block {layer.layer}  " + " ".join(f"{s:5.1f}" for s in shares))
    first = trace.layers[0]
    lines.append(
        f"experts of the first tokens in block {first.layer}, best first"
        + (", sub-tokens split by |:" if first.heads > 1 else ":")
    )
    return lines + [_choices(trace, t) for t in range(min(FIRST_TOKENS, source.count))]


def _seen(source: Input) -> str:
    if source.kind == "text":
        return f"{source.count} tokens in {len(source.words)} words"
    if source.kind == "image-text":
        return f"{_seen(source.picture)}, {_seen(source.caption)}"
    rows, columns = source.grid
    return f"{rows} x {columns} patches of the square {source.crop} of the picture"


def _choices(trace: RoutingTrace, token: int) -> str:
    from mhmoe.models.tokenizer import visible

    layer = trace.layers[0]
    rows = layer.expert[token * layer.heads : (token + 1) * layer.heads]
    shown = " | ".join(" ".join(str(e) for e in row if e >= 0) for row in rows)
    name = (
        repr(visible(trace.input.tokens[token].text))
        if trace.input.kind == "text"
        else f"patch {token}"
    )
    return f"  {name:<14} {shown}"


# ---------------------------------------------------------------------------- evaluate


def show_metrics(args: argparse.Namespace) -> None:
    kinds = ("text",) if args.text_file else ("image", "image-text")
    numbers = _with_model(args, kinds, lambda loaded: _measure(args, loaded))
    if args.json:
        print(json.dumps(numbers, indent=1))
    else:
        print("\n".join(f"{name:<20} {value}" for name, value in numbers.items()))


def _measure(args: argparse.Namespace, loaded: Loaded) -> dict:
    from mhmoe.models import engine

    if args.text_file:
        numbers = engine.evaluate_text(loaded, engine.read_text(args.text_file))
    elif args.scenes and loaded.model.config.kind == "image-text":
        from mhmoe.training import captions

        numbers = engine.evaluate_pairs(loaded, *captions.paired_validation(args.scenes))
    elif args.scenes:
        from mhmoe.training import scenes

        numbers = engine.evaluate_scenes(loaded, *scenes.classified_validation(args.scenes))
    else:
        config = loaded.model.config
        numbers = engine.evaluate_images(
            loaded, _pictures(args.image_dir, config.grid * config.patch)
        )
    return {"model": loaded.name, "sha256": loaded.card["sha256"], **numbers}


def _pictures(folder: Path, side: int) -> list[DecodedImage]:
    """Every picture of the folder, in the order of names; what is none is left out aloud."""
    from mhmoe.models.images import ImageProblem

    try:
        files = sorted(p for p in folder.iterdir() if p.is_file())
    except OSError as error:
        raise Failed(f"{folder} cannot be read: {error.strerror}.") from None
    pictures = []
    for path in files:
        try:
            pictures.append(_picture(path, side))
        except ImageProblem as problem:
            _say(f"{path.name} is left out. {problem}")
    if not pictures:
        raise Failed(f"There is no picture in {folder} that could be measured.")
    return pictures


def _with_model(
    args: argparse.Namespace, kinds: tuple[str, ...], work: Callable[[Loaded], Result]
) -> Result:
    """Call ``work`` with the model that was named, which must be of one of the kinds; on the CPU
    where the GPU is too small."""

    from mhmoe.models import checkpoint, engine
    from mhmoe.models.device import choose

    if args.model not in checkpoint.names():
        raise Usage(checkpoint.unknown(args.model))
    device = choose(args.device)
    card, step = checkpoint.card(args.model), getattr(args, "step", None)
    if step is not None and step not in checkpoint.steps(card):
        raise Usage(checkpoint.unknown_step(card, step))
    found = card["config"]["kind"]
    if found not in kinds:
        raise Usage(f"The model {args.model!r} is of kind {found}, the input of kind {kinds[0]}.")
    engine.FELL_BACK.clear()
    result = engine.on_device(lambda where: work(engine.load(args.model, where, step)), device)
    if engine.FELL_BACK.is_set():
        _say(f"The memory of {device} is not enough; the CPU computed instead.")
    return result


# ---------------------------------------------------------------------------- measure


def run_measuring(args: argparse.Namespace) -> None:
    import torch

    from mhmoe.analysis import results
    from mhmoe.models.device import choose
    from mhmoe.training import measure

    device = choose(args.device)
    try:
        content = results.load(args.out)
        chosen = measure.subjects(args.names, args.runs)
        texts = [subject.name for subject in chosen if subject.config.kind == "text"]
        if texts and args.text_dir is None:
            raise Usage(
                f"{texts[0]} is a text model: name the folder of held-out sentences with "
                "--text-dir, or name image models only."
            )
        for subject in chosen:
            content = results.merged(content, {subject.name: _measured(args, subject, device)})
            results.save(content, args.out)  # after each: a stopped command keeps what it has
            mine = [row for row in content["findings"] if subject.name in row["models"]]
            print("\n".join(f"  {results.sentence(row)}" for row in mine), flush=True)
    except results.ResultsError as error:
        raise Failed(f"{error} Move it away, or choose another --out.") from None
    except torch.OutOfMemoryError:
        raise Failed(f"The memory of {device} is not enough; use --device cpu.") from None
    except OSError as error:
        raise Failed(f"The results could not be read or written: {error}.") from None
    print(f"The results are in {args.out}.")


def _measured(args: argparse.Namespace, subject: Subject, device: torch.device) -> dict:
    """The entry of one model."""
    from mhmoe.training import measure_images, measure_pairs, measure_text, questions

    def say(sentence: str) -> None:
        print(sentence, flush=True)

    if subject.config.kind == "image":
        pictures = measure_images.drawn(subject.config)
        photos = args.boundaries and measure_images.photographs(args.boundaries, subject.config)
        return measure_images.measure(subject, pictures, device, say, photos)
    if subject.config.kind == "image-text":
        pairs = measure_pairs.drawn(subject.config)
        return measure_pairs.measure(subject, pairs, device, say)
    asked = (subject.config, subject.languages)
    text = questions.held_out(args.text_dir, *asked)
    words = args.treebanks and questions.labelled(args.treebanks, *asked)
    return measure_text.measure(
        subject, text, device, say, words=words, lists=args.words, with_costs=args.costs
    )


# ---------------------------------------------------------------------------- logs


def collect_logs(args: argparse.Namespace) -> None:
    from mhmoe.training import logs

    path, names = logs.write(args.family, args.runs or state_folder(), args.out)
    print(f"{len(names)} runs ({', '.join(names)}) are in {path}, {path.stat().st_size:,} bytes.")


# ---------------------------------------------------------------------------- bench


def run_bench(args: argparse.Namespace) -> None:
    try:
        bench.run(args)
    except bench.BenchUsage as error:
        raise Usage(str(error)) from None
    except bench.BenchError as error:
        raise Failed(str(error)) from None


# ---------------------------------------------------------------------------- train


def run_training(args: argparse.Namespace) -> None:
    from mhmoe.models.device import describe
    from mhmoe.training.processes import joined

    with joined() as world:
        recipe, device = world.together(lambda: _asked(args, world))
        if recipe.data == "text":  # learned by the first process where there is none
            world.first(lambda: _learn_tokenizer(recipe, args.text_dir))
        job = world.together(lambda: _open_job(recipe, args, device, world))
        say = partial(print, flush=True) if world.rank == 0 else _nothing
        if recipe.data == "text":
            _say_other_text(job, say)
        if args.fresh:
            world.first(job.discard)
        if world.together(job.resume):
            say(f"Going on from step {job.step}, saved in {job.folder}.")
        world.same("the step of the saved state", job.step)
        many = f" in {world.size} processes" if world.size > 1 else ""
        say(
            f"{recipe.name}, seed {recipe.seed}, on {describe(device)}{many}: {job.step} of "
            f"{recipe.steps} steps done."
        )
        _run(job)
        if job.validation:
            say(f"Validation: {_short(job.validation[-1])}.")
        world.first(lambda: _finish(job, args.ship))


def _nothing(*ignored: object) -> None:
    """What a process says that leaves it to another one."""


def _asked(args: argparse.Namespace, world: World) -> tuple[Recipe, torch.device]:
    from mhmoe.models.device import choose
    from mhmoe.training.recipe import Recipe

    recipe = Recipe.load(args.recipe, args.seed)
    if args.ship is not None:
        recipe = replace(recipe, ship=args.ship)
    if recipe.data == "text" and args.text_dir is None:
        raise Usage(f"The recipe {recipe.name} trains on text; name its folder with --text-dir.")
    return recipe, world.device(choose(args.device))


@contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failed(f"The run cannot be started: {error}.") from None


def _learn_tokenizer(recipe: Recipe, text_dir: Path) -> None:
    from mhmoe.training.tasks import open_tokenizer

    with _starting():
        open_tokenizer(text_dir, recipe.model.vocabulary)


def _open_job(recipe: Recipe, args: argparse.Namespace, device: torch.device, world: World) -> Job:
    from mhmoe.training.loop import Job

    state = args.state or state_folder()
    with _starting():
        return Job(recipe, state, text_dir=args.text_dir, device=device, world=world)


def _say_other_text(job: Job, say: Callable[[str], None]) -> None:
    from mhmoe.training.text import SOURCES, differing

    if other := differing(job.task.digests):
        say(
            f"The sentences of {', '.join(other)} are not those of the shipped models, so the run "
            f"will give other weights; mhmoe/training/{SOURCES.name} says which those were."
        )


def _run(job: Job) -> None:
    import torch

    meter = Meter(sys.stdout, sparse=job.recipe.model.moe is not None)
    try:
        job.run(meter if job.world.rank == 0 else _nothing)
    except KeyboardInterrupt:
        raise job.world.failure(
            f"Stopped. The same command goes on from the state that was last saved in {job.folder}."
        ) from None
    except torch.OutOfMemoryError:
        raise Failed("The memory of the device is not enough to train; use --device cpu.") from None


def _finish(job: Job, wanted: bool | None) -> None:
    from mhmoe.training import ship

    path = None if wanted is False else ship.target(job.recipe)
    if path is None:
        print(f"Finished; the weights are in {job.folder}.")
        return
    print(f"Finished; measuring and writing {path}.", flush=True)
    ship.ship(job)


class Meter:
    """Progress: one line that is rewritten on a terminal, else one line per report."""

    def __init__(self, stream, sparse: bool):
        self.stream, self.sparse, self.live = stream, sparse, stream.isatty()

    def __call__(self, p) -> None:
        minutes, seconds = divmod(round(p.seconds_left), 60)
        load = f"  load {p.idlest:.3f}..{p.busiest:.3f}" if self.sparse else ""
        line = (
            f"step {p.step}/{p.steps}  loss {p.loss:.3f}  "
            f"{p.tokens_per_second:,.0f} tokens/s  {minutes}:{seconds:02d} left{load}"
        )
        last = p.step == p.steps
        self.stream.write(f"\r{line:<78}" + "\n" * last if self.live else line + "\n")
        self.stream.flush()


def state_folder() -> Path:
    """Where unfinished runs are kept: MHMOE_STATE, else where the platform keeps such things."""
    if chosen := os.environ.get("MHMOE_STATE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~")).expanduser() / "mhmoe"
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/mhmoe").expanduser()
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "mhmoe"


def _say(sentence: str) -> None:
    print(f"mhmoe: {sentence}", file=sys.stderr)
