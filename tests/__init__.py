"""Tests; a package with this file, so that no installed package of the same name comes before it (torch-fidelity's)."""
