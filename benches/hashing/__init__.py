"""Retrieval across two views of handwritten digits by binary codes.

``python -m benches.hashing`` trains CMIMH (:mod:`ucmkd.hashing`) on pairs of profile correlations
and Fourier coefficients of UCI multiple features, without labels, and compares it with codes by
chance, signs of principal components, canonical correlations, and itself on permuted pairs.
"""
