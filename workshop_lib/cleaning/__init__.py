"""Week 2: from raw pages to a clean training corpus.

collect → decode → normalise → HTML and boilerplate → PII → rules and classifier → decontamination → exact and near
duplicates → mixture, data sheet. Each step is a plain function over text, in the module named after it;
`clean_document` puts the per-document ones in order, `clean_corpus` runs them over a stream on all cores.
"""

from workshop_lib.cleaning.corpus import build, datasheet, defect_scores, measure, mixture, precision_recall, sample_rejected
from workshop_lib.cleaning.decoding import (
    compose,
    damaged_share,
    declared_charset,
    decode,
    fold_width,
    normalise,
    shorten_runs,
    undo_mojibake,
)
from workshop_lib.cleaning.extraction import extract, html_blocks, is_boilerplate_line, looks_like_html
from workshop_lib.cleaning.near_duplicates import (
    benchmark_ngrams,
    candidate_pairs,
    candidate_probability,
    contaminated,
    content_key,
    drop_exact_duplicates,
    drop_near_duplicates,
    hash_functions,
    jaccard,
    minhash,
    minhash_signature,
    shingle_hashes,
    shingles,
)
from workshop_lib.cleaning.pipeline import Cleaned, Report, clean_chunks, clean_corpus, clean_document
from workshop_lib.cleaning.privacy import find_pii, luhn, mask_mobile, mask_pii, resident_checksum
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
    "Cleaned", "PLAIN", "QualityModel", "Report", "WEB", "benchmark_ngrams", "build", "candidate_pairs",
    "candidate_probability", "clean_chunks", "clean_corpus", "clean_document", "compose", "contaminated",
    "content_key", "damaged_share", "datasheet", "declared_charset", "decode", "defect_scores",
    "drop_exact_duplicates", "drop_near_duplicates", "extract", "find_pii", "fold_width", "hangul_ratio",
    "hash_functions", "html_blocks", "is_boilerplate_line", "jaccard", "looks_like_html", "luhn",
    "mask_mobile", "mask_pii", "measure", "minhash", "minhash_signature", "mixture", "normalise",
    "precision_recall", "rejection_reason", "repeated_ngram_ratio", "resident_checksum", "sample_rejected",
    "shingle_hashes", "shingles", "shorten_runs", "train_quality_model", "undo_mojibake",
]
