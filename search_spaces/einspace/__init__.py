"""The grammar space einspace: networks derived from fundamental operations.

[Ericsson2024] L. Ericsson et al.: einspace: Searching for Neural Architectures from Fundamental Operations. NeurIPS
2024, arXiv 2405.20838.
"""
