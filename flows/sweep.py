"""Compare depth, beta and draws on a user's own model and pairs, without a lake and without Prefect."""

from collections.abc import Iterator, Sequence
from itertools import islice

import m2ib
from corpora import CorpusError, Pair
from flows.config import AuditConfig
from m2ib.analysis.sweep import SweepRow, make_variants, run_sweep
from tasks.errors import BadInputError
from tasks.inputs import load_corpus


def sweep_settings(
    config: AuditConfig, pairs: int, depths: Sequence[float], betas: Sequence[float], draws: Sequence[int]
) -> Iterator[SweepRow]:
    """Yield one row per combination, measured on the corpus's first readable pairs. Raises BadInputError."""
    source, model = config.corpus, config.models()[0]
    try:
        corpus = load_corpus(source)
        sample = list(islice((row for row in corpus.pairs() if isinstance(row, Pair)), pairs))
        if len(sample) < 2:
            raise BadInputError(f"sweep: got {len(sample)} readable pair(s) in {source.place}, expected at least 2")
        encoder = m2ib.load_encoder(model.architecture, model.pretrained, model.device)
        if model.compile:
            encoder.compile()
        images = encoder.stack_images([encoder.preprocess(corpus.read_image(pair.place).pixels) for pair in sample])
        texts = [pair.caption for pair in sample]
        settings = make_variants(config.bottleneck_config(), depths, betas, draws)
        yield from run_sweep(encoder, images, texts, settings, model.batch_size)
    except (CorpusError, m2ib.M2IBError, ValueError) as error:
        raise BadInputError(str(error)) from error
