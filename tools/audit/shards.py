"""Audit of one shard, the same in every kind of worker: its tar is read once, its sidecar and index beside it."""

import hashlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import numpy as np

from pipelines import storage
from pipelines.document import Document, Provenance
from pipelines.errors import UserError
from pipelines.images.metadata import read_size, sniff_format
from pipelines.images.pixels import MAX_PIXELS
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.sidecar import sidecar_row
from pipelines.shards.tar_samples import Read, TarSample, read_index
from pipelines.text.personal_data import mask
from tools.audit.duplicates import Meeting, Where, content_meetings, key_meeting
from tools.audit.energon_rows import compare_shard
from tools.audit.evidence import judge_again
from tools.audit.faults import FAULTS, OF_SAMPLES, OF_SHARDS
from tools.audit.findings import Findings
from tools.audit.media import image_hashes, media_faults
from tools.audit.plan import Plan, ShardTask, SourcePlan
from tools.audit.samples import (
    SampleFault,
    box_faults,
    member_fault,
    num_regions,
    parse,
    parse_images,
    schema_faults,
)
from tools.audit.sidecars import SidecarReader, compare_row
from tools.audit.tar_reader import FormReader, HashingReader

_NEED_DOCUMENT = OF_SAMPLES - {"sidecar"}
_NEED_SAMPLES = OF_SAMPLES | {"tar_format", "index", "splits"}
_OF_IMAGES = frozenset({"shard_sha256", "index", "media", "funnel", "drops", "croissant", "drift"})
_NOWHERE = Provenance("", "")
_FOREIGN_COLUMNS = ("key", "byte_offset", "bytes", "parts", "num_media", "num_text_chars")


def audit_shard(plan: Plan, task: ShardTask, folder: str) -> Iterator[Meeting | Findings]:
    """Yield the rows by which a shard's samples meet others, and at last what was found in the shard.

    Nothing that a file holds raises an error, and a shard that is there and cannot be read is a finding.

    Args:
        plan: What to check.
        task: The shard.
        folder: Folder of this machine for copies of files that are on a store.

    Raises:
        OSError: If the store does not say whether the shard is there.
    """
    audit = _ShardAudit(plan, task, folder)
    yield from audit.run() if task.chosen is None else audit.run_chosen(task.chosen)
    yield audit.findings


class _ShardAudit:
    """Audit of one shard: what was found, and where in the shard it is."""

    def __init__(self, plan: Plan, task: ShardTask, folder: str) -> None:
        self.findings = Findings()
        self._plan, self._task, self._shard, self._folder = plan, task, task.shard, folder
        self._path = storage.join(plan.corpus, task.shard.path)
        self._source = plan.sources.get(task.shard.source, SourcePlan())
        self._place = 0  # of the sample in the shard
        self._bad: set[str] = set()  # checks that have found a fault in the sample
        self._bad_kinds: set[str] = set()
        self._bad_shard: set[str] = set()
        self._is_sidecar_bad = False  # as a whole

    # --- the whole shard ---

    def run(self) -> Iterator[Meeting]:
        checks = self._plan.checks
        if self._wants("index") and not self._plan.is_foreign:
            is_right = compare_shard(self._plan, self._task, self._folder, self.findings)
            self._bad_shard |= set() if is_right else {"index"}
        size = self._size()
        if size is None:
            self._count_shard()
            return
        try:
            with storage.open_read(self._path) as file:
                if not checks & _NEED_SAMPLES:
                    self._compare_bytes(hashlib.file_digest(cast(Any, file), "sha256").hexdigest(), size)
                else:
                    reader = HashingReader(file, hashes="shard_sha256" in checks)
                    yield from self._read_samples(reader, size)
                    self._compare_bytes(*reader.finish())
        except OSError as error:
            self._add("shard_unreadable", storage.error_line(error), always=True)
            self._bad_shard |= OF_SHARDS
        self._count_shard()

    def _size(self) -> int | None:
        """Return the bytes in the shard; None if it is missing, which is told."""
        try:
            return storage.size(self._path)
        except FileNotFoundError:
            self._add("shard_missing", "the manifest lists it, and it is not there", always=True)
            self._bad_shard |= OF_SHARDS
            return None

    def _read_samples(self, reader: HashingReader, size: int) -> Iterator[Meeting]:
        is_ours = not self._plan.is_foreign and self._wants("tar_format")
        form = FormReader(reader.read, self._path, self._add_of, is_ours=is_ours)
        offsets = array("Q")
        sidecar_path = storage.join(self._plan.corpus, self._shard.sidecar)
        # Of foreign tars only the sidecar tells which samples are none.
        is_needed = self._wants("sidecar") or self._plan.is_foreign
        with SidecarReader(sidecar_path if is_needed else None, self._add_sidecar) as sidecar:
            for sample in form.samples(0, size, is_whole=True):
                offsets.append(sample.offset)
                yield from self._audit_sample(sample, next(sidecar) if sidecar.is_readable else None)
                self._place += 1
            self._place = 0
            is_broken = form.error is not None
            if is_broken:
                self._add("tar_broken", form.error or "", always=True)
            if sidecar.is_readable and not is_broken:
                self._check_rows(sidecar, len(offsets))
        if is_broken:
            self._bad_shard |= OF_SHARDS  # its samples are neither counted nor held against its index
            return
        if self._wants("shard_sha256") and len(offsets) != self._shard.samples:
            self._add("num_samples", f"{len(offsets)} samples, the manifest says {self._shard.samples}")
        if self._wants("index"):
            self._check_index([*offsets, form.end])

    def _check_rows(self, sidecar: SidecarReader, num_samples: int) -> None:
        while next(sidecar) is not None:
            pass
        if sidecar.is_readable and sidecar.num_read != num_samples:
            self._add_sidecar("sidecar_rows", f"{sidecar.num_read} rows, the tar has {num_samples} samples", None)

    def _compare_bytes(self, sha256: str, size: int) -> None:
        if not self._wants("shard_sha256"):
            return
        if size != self._shard.bytes:
            self._add("shard_size", f"{size} bytes, the manifest says {self._shard.bytes}")
        elif sha256 != self._shard.sha256:
            self._add("shard_bytes", f"sha256 {sha256}, the manifest says {self._shard.sha256}")

    def _check_index(self, expected: list[int]) -> None:
        path = self._shard.path + ".idx"
        try:
            found = read_index(self._path)
        except UserError as error:
            kind = "index_damaged" if storage.exists(self._path + ".idx") else "index_missing"
            self._add(kind, str(error).removeprefix(f"{self._path}.idx: "), path=path)
            return
        if len(found) != len(expected):
            self._add("index_differs", f"{len(found) - 1} samples, the tar has {len(expected) - 1}", path=path)
        elif (differs := np.flatnonzero(found != np.array(expected, np.int64))).size:
            at = int(differs[0])
            self._add("index_differs", f"offset {at} is {found[at]}, in the tar it is {expected[at]}", path=path)

    def _count_shard(self) -> None:
        self.findings.num_shards += 1
        for check in OF_SHARDS & self._plan.checks:
            self.findings.num_checked[check] += 1
            self.findings.num_bad[check] += check in self._bad_shard

    # --- some of its samples ---

    def run_chosen(self, chosen: tuple[int, ...]) -> Iterator[Meeting]:
        """Audit the samples of these numbers by themselves, read where the index says."""
        index = self._shard.path + ".idx"
        if self._size() is None:
            self._count_unread(len(chosen))
            return
        try:
            offsets = read_index(self._path)
        except (UserError, OSError) as error:
            if isinstance(error, OSError):
                self._add("shard_unreadable", storage.error_line(error), path=index, always=True)
            else:
                kind = "index_damaged" if storage.exists(self._path + ".idx") else "index_missing"
                self._add(kind, str(error).removeprefix(f"{self._path}.idx: "), path=index, always=True)
            self._count_unread(len(chosen))
            return
        rows = self._chosen_rows(chosen) if self._wants("sidecar") or self._plan.is_foreign else {}
        self._is_sidecar_bad = "sidecar" in self._bad
        for num_before, number in enumerate(chosen):
            self._place = number
            if number + 1 >= len(offsets):
                said = f"{len(offsets) - 1} samples, the manifest says {self._shard.samples}"
                self._add("index_differs", said, path=index, always=True)
                self._count_unread(len(chosen) - num_before)
                return
            sample = self._read_one(int(offsets[number]), int(offsets[number + 1]))
            if sample is None:
                self._count_unread(1)
            else:
                yield from self._audit_sample(sample, rows.get(number))

    def _read_one(self, begin: int, end: int) -> TarSample | None:
        """Return the sample between two offsets; None if there is none, which is told."""
        try:
            data = storage.read_range(self._path, begin, end - begin)
        except (EOFError, OSError) as error:
            kind = "tar_broken" if isinstance(error, EOFError) else "shard_unreadable"
            self._add(kind, storage.error_line(error), always=True)
            return None
        form = FormReader(_reader_of(data, begin), self._path, self._add_of, is_ours=not self._plan.is_foreign)
        samples = list(form.samples(begin, end, is_whole=False))
        if form.error is not None or len(samples) != 1:
            said = form.error or f"{len(samples)} samples where the index has one"
            self._add("tar_broken", said, always=True)
            return None
        return samples[0]

    def _count_unread(self, number: int) -> None:
        """Count samples that were drawn and cannot be read: a draw promises nothing good of them."""
        self.findings.num_samples += number
        for check in OF_SAMPLES & self._plan.checks:
            self.findings.num_bad[check] += number

    def _chosen_rows(self, chosen: tuple[int, ...]) -> dict[int, dict[str, Any]]:
        with SidecarReader(storage.join(self._plan.corpus, self._shard.sidecar), self._add_sidecar) as sidecar:
            return sidecar.rows_at(chosen) if sidecar.is_readable else {}

    # --- one sample ---

    def _audit_sample(self, sample: TarSample, row: dict[str, Any] | None) -> Iterator[Meeting]:
        """Make all checks of a sample; what is wrong with it is told once, by the check that it concerns."""
        self._bad.clear()
        self._bad_kinds.clear()
        if self._wants("sidecar") and (row is None or self._is_sidecar_bad):
            self._bad.add("sidecar")
        self.findings.num_samples += 1
        where = Where(self._shard.source, self._shard.split, self._task.number, self._place)
        if self._wants("schema") and self._task.chosen is None:
            yield key_meeting(sample.key, where, is_foreign=self._plan.is_foreign)
        meetings: list[Meeting] = []
        try:
            meetings = self._judge(sample, row, where)
        except Exception as error:  # of bytes that nobody foresaw; the other samples are audited all the same
            fault = None if self._plan.is_foreign else parse(sample)
            if not isinstance(fault, SampleFault):
                fault = SampleFault("check_failed", f"please report: {storage.error_line(error)}")
            self._add(fault.kind, fault.detail, key=sample.key, always=True)
            self._bad |= OF_SAMPLES
        yield from meetings
        for check in self._bad & OF_SAMPLES & self._plan.checks:
            self.findings.num_bad[check] += 1

    def _judge(self, sample: TarSample, row: dict[str, Any] | None, where: Where) -> list[Meeting]:
        checked, is_ours = self.findings.num_checked, not self._plan.is_foreign
        document = self._document(sample, row)
        checked["schema"] += self._wants("schema")
        if row is not None:
            checked["sidecar"] += 1
            compare_row(row, self._expected_row(document, sample), self._add_sidecar)
        if document is None:
            return []
        if is_ours and self._wants("schema"):
            self._add_all(schema_faults(sample, document, self._shard.kind), sample.key)
        if is_ours and self._wants("tar_format") and (fault := member_fault(sample, document)):
            self._add_all(iter([fault]), sample.key)
        if self._wants("boxes"):
            checked["boxes"] += num_regions(document)
            self._add_all(box_faults(document) if is_ours else iter(()), sample.key)
        hashes: list[str | None] = []
        if self._wants("media") or self._wants("splits"):
            hashes = image_hashes(sample, document)
        if self._wants("media"):
            checked["media"] += len(document.media)
            self._add_all(media_faults(sample, document, hashes, is_ours=is_ours), sample.key)
        if self._wants("policy") and self._plan.policy is not None:
            self._judge_permission(document)
        if self._wants("personal_data"):
            self._look_for_people(document)
        if not self._wants("splits") or self._task.chosen is not None:
            return []
        checked["splits"] += 1
        known = [name for name in hashes if name is not None]
        if not self._bad_kinds & {"media_broken", "media_missing"} and _can_be_decoded(sample, document):
            with suppress(ValueError):
                return list(content_meetings(sample, document, known, self._source.duplicates, where))
        self.findings.num_unknown["splits"] += 1
        return []

    def _document(self, sample: TarSample, row: dict[str, Any] | None) -> Document | None:
        """Return a sample's document; None if it has none, or its sidecar says that it must not be used."""
        if self._plan.is_foreign:
            if row is not None and row.get("allowed") is False:
                self.findings.num_unusable += 1
                return None
            try:
                return read_document(sample, self._shard.source, images_alone=True)
            except ValueError as error:
                self._add("unreadable_sample", str(error), key=sample.key, always=True)
                self._bad |= _NEED_DOCUMENT
                return None
        are_images_enough = self._plan.checks <= _OF_IMAGES
        found = parse_images(sample) if are_images_enough else parse(sample, checks_types=self._wants("schema"))
        if isinstance(found, SampleFault):
            self._add(found.kind, found.detail, key=sample.key, always=True)
            self._bad |= _NEED_DOCUMENT
            return None
        return found

    def _expected_row(self, document: Document | None, sample: TarSample) -> dict[str, Any]:
        empty = Document("text", sample.key, (), (), _NOWHERE)
        expected = sidecar_row(document or empty, sample)
        if self._plan.is_foreign or document is None:
            names = _FOREIGN_COLUMNS if document is not None else _FOREIGN_COLUMNS[:4]
            return {name: expected[name] for name in names}
        return expected

    def _judge_permission(self, document: Document) -> None:
        policy = self._plan.policy
        assert policy is not None
        self.findings.num_checked["policy"] += 1
        decision = document.decision
        again = judge_again(document, policy)
        if again.is_partial:
            self.findings.num_unknown["policy"] += 1
            self._bad.add("policy")
        if not decision.allowed:
            reasons = ", ".join(decision.reasons) or "no reason given"
            self._add("not_allowed", f"its verdict refuses it: {reasons}", key=document.key)
        elif again.reasons:
            said = ", ".join(again.reasons)
            self._add("verdict_differs", f"allowed, but its signals refuse it: {said}", key=document.key)
        elif decision.reasons:
            said = ", ".join(decision.reasons)
            self._add("verdict_differs", f"allowed, with reasons that refuse it: {said}", key=document.key)
        if again.missing:
            self._add("evidence_missing", f"fetched, but there is {again.missing[0]}", key=document.key)
        name = policy.name_for(document.signals)
        if decision.policy != name:
            self._add("policy_name", f"judged by policy {decision.policy!r}, the spec's is {name!r}", key=document.key)

    def _look_for_people(self, document: Document) -> None:
        texts = [(f"segment {i}", s.text) for i, s in enumerate(document.segments) if s.text]
        texts += [(f"alt of media {i}", m.alt) for i, m in enumerate(document.media) if m.alt]
        texts += [(f"credit of media {i}", m.credit) for i, m in enumerate(document.media) if m.credit]
        others = document.extras.get("other_captions")
        for i, other in enumerate(others if isinstance(others, list) else ()):
            if isinstance(other, dict) and isinstance(other.get("text"), str):
                texts.append((f"other caption {i}", other["text"]))
        self.findings.num_checked["personal_data"] += len(texts)
        kind = "personal_data" if self._source.masks else "personal_data_kept"
        for name, text in texts:
            if hits := mask(text).hits:
                said = ", ".join(f"{num} {type_}" for type_, num in sorted(hits.items()))
                self._add(kind, f"{name}: {said}", key=document.key)

    # --- adding ---

    def _wants(self, check: str) -> bool:
        return check in self._plan.checks

    def _add(
        self, kind: str, detail: str, *, key: str | None = None, path: str | None = None, always: bool = False
    ) -> None:
        """Add a fault of a check that was asked for, or, `always`, one that hides what others would check."""
        check = FAULTS[kind].check
        if always or check in self._plan.checks:
            self._bad.add(check)
            self._bad_kinds.add(kind)
            self._bad_shard.add(check)
            order = (self._task.number, self._place)
            self.findings.add(kind, path or self._shard.path, detail, key=key, order=order)

    def _add_of(self, kind: str, detail: str, key: str | None) -> None:
        self._add(kind, detail, key=key)

    def _add_sidecar(self, kind: str, detail: str, key: str | None) -> None:
        self._add(kind, detail, key=key, path=self._shard.sidecar)

    def _add_all(self, faults: Iterator[SampleFault], key: str) -> None:
        for fault in faults:
            self._add(fault.kind, fault.detail, key=key)


def _reader_of(data: bytes, begin: int) -> Read:
    return lambda offset, length: data[offset - begin : offset - begin + length]


def _can_be_decoded(sample: TarSample, document: Document) -> bool:
    """Return whether images are there and of a size that may be decoded."""
    for media in document.media:
        data = sample.parts.get(str(media.part).lower(), b"")
        format = sniff_format(data)
        try:
            width, height = (0, 0) if format is None else read_size(data, format)
        except ValueError:
            return False
        if not 0 < width * height <= MAX_PIXELS:
            return False
    return True
