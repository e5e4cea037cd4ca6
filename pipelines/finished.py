"""Tells whether a corpus is already what a build would make, without the stages, which take a second to import."""

from pipelines import crawl_inputs, extract_inputs, fetch_inputs, filter_inputs, shard_inputs, storage
from pipelines.errors import UserError
from pipelines.layout import candidates_folder, decisions_folder, documents_folder
from pipelines.published import earlier_manifest
from pipelines.running.serve import serving
from pipelines.shards.manifest import FILE_NAME, Manifest, load_manifest
from pipelines.spec import CorpusSpec


def finished_corpus(spec: CorpusSpec, out: str) -> Manifest | None:
    """Return the manifest of a corpus of which a build would change nothing; None of any other folder.

    Each stage is asked, in order, what its result is made from, as it asks itself before it begins. The spec's servers
    start only if a list cannot be read without them.
    """
    if not storage.exists(storage.join(out, FILE_NAME)):
        return None
    for served in ([], spec.serve) if spec.serve else ([],):
        try:
            with serving(served):
                is_finished = _is_crawled(spec, out) and _are_stages_finished(spec, out)
        except (UserError, OSError):  # a build says what is wrong
            continue
        return load_manifest(out) if is_finished else None
    return None


def _is_crawled(spec: CorpusSpec, out: str) -> bool:
    return all(
        crawl_inputs.load_progress(out, name).finished
        == crawl_inputs.crawl_inputs(spec, name, crawl_inputs.archive_files(spec, name, out))
        for name in spec.crawls
    )


def _are_stages_finished(spec: CorpusSpec, out: str) -> bool:
    """Return whether candidates, documents, decisions and the corpus itself are those of a build from here on."""
    tasks = extract_inputs.extract_tasks(spec, out)
    if not candidates_folder(out).is_finished(extract_inputs.extract_inputs(spec, out, tasks)):
        return False
    if not documents_folder(out).is_finished(fetch_inputs.fetch_inputs(spec, out)):
        return False
    earlier_manifest(spec, out)  # settings that contradict it are an error
    weights = filter_inputs.model_weights(spec)
    if not decisions_folder(out).is_finished(filter_inputs.filter_inputs(spec, out, weights)):
        return False
    return shard_inputs.is_published(out, shard_inputs.shard_inputs(spec, out))
