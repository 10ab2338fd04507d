"""Week 2: from raw pages to a clean training corpus.

collect → decode → normalise → HTML and boilerplate → PII → rules and classifier → decontamination → exact and near
duplicates → mixture, data sheet. Each step is a plain function over text, in the module named after it;
`clean_document` puts the per-document ones in order, `clean_corpus` runs them over a stream on all cores.
"""

from workshop_lib.cleaning.corpus import build, datasheet, measure, mixture, sample_rejected
from workshop_lib.cleaning.decoding import (
    compose,
    damaged_share,
    declared_charset,
    decode,
    normalise,
    shorten_runs,
    undo_mojibake,
)
from workshop_lib.cleaning.extraction import extract, html_blocks, is_boilerplate_line, looks_like_html
from workshop_lib.cleaning.near_duplicates import (
    benchmark_ngrams,
    candidate_probability,
    contaminated,
    content_key,
    drop_exact_duplicates,
    drop_near_duplicates,
    jaccard,
    minhash,
    shingles,
)
from workshop_lib.cleaning.pipeline import Cleaned, Report, clean_chunks, clean_corpus, clean_document
from workshop_lib.cleaning.privacy import find_pii, luhn, mask_pii, resident_checksum
from workshop_lib.cleaning.quality import (
    PLAIN,
    WEB,
    QualityModel,
    hangul_ratio,
    rejection_reason,
    repeated_ngram_ratio,
    train_quality_model,
)

__all__ = [
    "PLAIN", "WEB", "Cleaned", "QualityModel", "Report", "benchmark_ngrams", "build", "candidate_probability",
    "clean_chunks", "clean_corpus", "clean_document", "compose", "contaminated", "content_key", "damaged_share",
    "datasheet", "declared_charset", "decode", "drop_exact_duplicates", "drop_near_duplicates", "extract", "find_pii",
    "hangul_ratio", "html_blocks", "is_boilerplate_line", "jaccard", "looks_like_html", "luhn", "mask_pii", "measure",
    "minhash", "mixture", "normalise", "rejection_reason", "repeated_ngram_ratio", "resident_checksum",
    "sample_rejected", "shingles", "shorten_runs", "train_quality_model", "undo_mojibake",
]
