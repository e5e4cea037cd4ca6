"""The audit as a whole: plans it, runs it, and reports what was found."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipelines import storage
from pipelines.command_line import printable
from pipelines.decisions.duplicates import DuplicateSettings
from pipelines.errors import UserError
from pipelines.layout import stage_folder
from pipelines.shards.manifest import Manifest, load_manifest
from tools.audit import whole
from tools.audit.drops import compare_drops, list_drops
from tools.audit.duplicates import scope_of
from tools.audit.faults import CHECKS, OF_SAMPLES, OF_SHARDS
from tools.audit.findings import MAX_PER_KIND, Findings, to_record
from tools.audit.plan import Plan, SourcePlan, SourceTask, Task, whole_shards
from tools.audit.sampling import CONFIDENCE, draw_samples, draw_shards, upper_bound
from tools.output import Section, print_sections, progress, write_json

if TYPE_CHECKING:
    from pipelines.spec import CorpusSpec

SCHEMA = "dromaius-audit/1"
MAX_SHOWN = 5
"""Findings of a kind that are printed; the JSON has all that are kept."""

_OF_TASKS = OF_SAMPLES | OF_SHARDS | {"splits"}


@dataclass(frozen=True, slots=True)
class Options:
    """What to audit and how.

    Args:
        corpus: Its folder.
        against: Folder of an earlier version, or None.
        sample: Number of samples (or, if only whole shards are checked, of shards) to draw; None: all.
        seed: Of the draw.
        checks: The checks to make.
        json_path: File to write, or None.
    """

    corpus: str
    against: str | None = None
    sample: int | None = None
    seed: int = 0
    checks: frozenset[str] = frozenset(CHECKS)
    json_path: str | None = None


class RunTasks(Protocol):
    """Way to audit shards and sources: by processes, or as a Beam pipeline."""

    def __call__(self, plan: Plan, tasks: Sequence[Task], /) -> Findings:
        """Return what was found, and show progress meanwhile."""


def audit(options: Options, run_tasks: RunTasks) -> bool:
    """Audit a corpus, print and write the report; return whether nothing was found.

    Raises:
        UserError: If there is no corpus, or no earlier version where one was named.
    """
    manifest = load_manifest(options.corpus)
    if options.against is not None:
        load_manifest(options.against)
    findings = Findings()
    skipped = {check: "left out" for check in CHECKS if check not in options.checks}
    skipped |= _cannot_be_checked(options, manifest)
    checks = options.checks - skipped.keys()
    needs_spec = checks & {"policy", "personal_data", "splits"}
    spec = whole.read_spec(options.corpus, manifest, findings) if needs_spec else None
    if "policy" in checks and spec is None:
        skipped["policy"] = "its spec cannot be read"
    plan = _plan(options.corpus, manifest, spec, checks)
    drops = list_drops(options.corpus) if checks & {"drops", "personal_data"} else []
    if tasks := [*_tasks(options, manifest, checks), *drops]:
        findings.merge(run_tasks(plan, tasks))
    if "drops" in checks:
        compare_drops(drops, manifest, findings)
    with progress("auditing the whole"):
        _check_whole(options, manifest, checks, findings)
    if options.json_path:
        write_json(options.json_path, _record(options, manifest, findings, skipped))
    _print(options, manifest, findings, skipped)
    return not findings.counts


def _cannot_be_checked(options: Options, manifest: Manifest) -> dict[str, str]:
    """Return why checks cannot be made, by check."""
    why: dict[str, str] = {}
    if manifest.spec_sha256 is None:
        why["policy"] = "foreign tars have no policy to judge by"
    if not storage.exists(storage.join(options.corpus, whole.CROISSANT)):
        why["croissant"] = f"no {whole.CROISSANT}; `python -m tools card` writes one"
    if options.against is None:
        why["drift"] = "no earlier version; --against names one"
    if options.sample is not None:
        if options.checks & OF_SAMPLES:
            why |= dict.fromkeys(OF_SHARDS, "needs whole shards, --sample reads parts; --only it draws shards")
        why["splits"] = "needs all samples"
    return {check: words for check, words in why.items() if check in options.checks}


def _plan(corpus: str, manifest: Manifest, spec: "CorpusSpec | None", checks: frozenset[str]) -> Plan:
    sources = {}
    if spec is not None:
        filters = {name: source.filters for name, source in spec.sources.items()}
        sources = {name: SourcePlan(f.mask_personal_data, f.duplicates) for name, f in filters.items()}
    every = [DuplicateSettings(), *(source.duplicates for source in sources.values())]
    policy = spec.policy if spec is not None else None
    scopes = {scope_of(settings): settings for settings in every}
    return Plan(corpus, checks, manifest.spec_sha256 is None, policy, sources, scopes)


def _tasks(options: Options, manifest: Manifest, checks: frozenset[str]) -> list[Task]:
    if not checks & _OF_TASKS:
        return []
    if options.sample is None:
        tasks: list[Task] = [*whole_shards(manifest.shards)]
    elif checks & OF_SAMPLES:
        return [*draw_samples(manifest.shards, options.sample, options.seed)]
    else:
        tasks = [*draw_shards(manifest.shards, options.sample, options.seed)]
    if "index" in checks and manifest.spec_sha256 is not None:
        tasks += [
            SourceTask(manifest.shards_of(source.name), manifest.fingerprint, manifest.name)
            for source in manifest.sources
        ]
    return tasks


def _check_whole(options: Options, manifest: Manifest, checks: frozenset[str], findings: Findings) -> None:
    if "shard_sha256" in checks:
        whole.check_files(options.corpus, manifest, findings)
    if "funnel" in checks:
        whole.check_funnel_rows(manifest, findings)
    if "croissant" in checks:
        whole.check_croissant(options.corpus, manifest, findings)
    if "drift" in checks and options.against is not None:
        whole.check_drift(options.corpus, manifest, options.against, findings)


# --- the report -----------------------------------------------------------------------------------------------------


def _record(options: Options, manifest: Manifest, findings: Findings, skipped: dict[str, str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "corpus": manifest.fingerprint,
        "checked": {check: findings.num_checked[check] for check in CHECKS},
        "not_checked": skipped,
        "in_part": {check: num for check, num in findings.num_unknown.items() if num},
        "num_unusable": findings.num_unusable,
        "counts": [{"kind": kind, "number": number} for kind, number in sorted(findings.counts.items())],
        "sample": _drawn(options, manifest),
        "promises": _promises(options, findings),
        "findings": _records(options, manifest, findings),
    }


def _records(options: Options, manifest: Manifest, findings: Findings) -> Iterator[dict[str, Any]]:
    is_foreign = manifest.spec_sha256 is None
    can_rebuild = storage.exists(stage_folder(options.corpus, "fetch"))
    for found in findings.kept():
        yield to_record(found, options.corpus, is_foreign=is_foreign, can_rebuild=can_rebuild, against=options.against)


def _drawn(options: Options, manifest: Manifest) -> dict[str, Any] | None:
    if options.sample is None:
        return None
    of_samples = bool(options.checks & OF_SAMPLES)
    total = manifest.num_samples if of_samples else len(manifest.shards)
    unit = "samples" if of_samples else "shards"
    return {"unit": unit, "number": min(options.sample, total), "of": total, "seed": options.seed}


def _promises(options: Options, findings: Findings) -> dict[str, dict[str, Any]]:
    """Return what a draw says of the whole, by check: the bound on the fraction of bad samples or shards.

    What was drawn and could not be checked, or only in part, counts as bad.
    """
    if options.sample is None:
        return {}
    of_samples = bool(options.checks & OF_SAMPLES)
    promises = {}
    for check in CHECKS:
        number = findings.num_samples if of_samples else findings.num_shards
        bad = findings.num_bad[check]
        if check in (OF_SAMPLES if of_samples else OF_SHARDS) and (findings.num_checked[check] or bad):
            bound = upper_bound(number, bad)
            promises[check] = {"checked": number, "bad": bad, "fewer_than": bound, "confidence": CONFIDENCE}
    return promises


def _print(options: Options, manifest: Manifest, findings: Findings, skipped: dict[str, str]) -> None:
    rows = []
    first = next((check for check in CHECKS if check in OF_SAMPLES and check not in skipped), None)
    for check in CHECKS:
        partly = findings.num_unknown[check]
        words = skipped.get(check, f"{partly:,} in part: evidence cut or unreadable" if partly else "")
        if findings.num_unusable and check == first:
            words = f"{findings.num_unusable:,} samples that `index` found unusable were passed over"
        number = None if check in skipped else findings.num_checked[check]
        rows.append((check, number, findings.num_found(check), words))
    sections = [Section("checks", ("check", "checked", "findings", "not checked"), rows)]
    records = list(_records(options, manifest, findings))
    seen: Counter[str] = Counter()
    shown = []
    for record in records:  # of each kind some, so that none hides the others
        seen[record["kind"]] += 1
        if seen[record["kind"]] <= MAX_SHOWN:
            shown.append(record)
    if records:
        columns = ("severity", "check", "path", "key", "detail")
        total = sum(findings.counts.values())
        cells = [[record[name] for name in columns] for record in shown]
        sections.append(Section("findings", columns, cells, len(records) - len(shown)))
        if many := {kind: num for kind, num in findings.counts.items() if num > MAX_PER_KIND}:
            title = f"kinds with more findings than the {MAX_PER_KIND} that are kept, {total:,} findings in all"
            sections.append(Section(title, ("kind", "findings"), sorted(many.items())))
    print_sections(sections)
    if remedies := list(dict.fromkeys(record["remedy"] for record in shown)):
        print("what to type against them, then audit again", *map(printable, remedies), sep="\n ", end="\n\n")
    if drawn := _drawn(options, manifest):
        print(f"{drawn['number']:,} of {drawn['of']:,} {drawn['unit']} were drawn, by seed {drawn['seed']}")
        for check, said in _promises(options, findings).items():
            bad = f"{said['bad']:,} of {said['checked']:,} bad"
            print(f"{check}: {bad}; with 95 % confidence fewer than {_percent(said['fewer_than'])} % of all are")
    number = sum(findings.counts.values())
    print(f"{printable(options.corpus)}: {number:,} findings" if number else f"{printable(options.corpus)}: no finding")


def _percent(fraction: float) -> str:
    """Return a fraction in per cent with two digits, rounded up: a promise must not be better than its bound."""
    if fraction >= 0.99:
        return "100"
    step = 10.0 ** (math.floor(math.log10(100 * fraction)) - 1)
    return f"{math.ceil(100 * fraction / step) * step:.2g}"


def chosen_checks(only: str | None, skip: str | None) -> frozenset[str]:
    """Return the checks that `--only` and `--skip` leave.

    Raises:
        UserError: If one names no check, or none is left.
    """
    left = set(_named(only, "--only")) if only is not None else set(CHECKS)
    left -= set(_named(skip, "--skip")) if skip is not None else set()
    if not left:
        raise UserError("--only and --skip leave no check")
    return frozenset(left)


def _named(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CHECKS:
            raise UserError(f"{option}: no check {name!r}; there are {', '.join(CHECKS)}")
    return names
