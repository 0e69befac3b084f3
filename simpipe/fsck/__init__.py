"""Verifies all releases under a root: checksums, counts, references, orphans. It says what is wrong and changes nothing."""

from simpipe.fsck.check import check_root
from simpipe.fsck.findings import Finding, Report

__all__ = ["Finding", "Report", "check_root"]
