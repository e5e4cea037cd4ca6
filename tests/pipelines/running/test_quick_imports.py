"""Tests of imports without packages that are not used."""

import subprocess
import sys

_CODE = """
import gc, sys
from pipelines.running.quick_imports import quick_imports
with quick_imports():
    assert not gc.isenabled()
    try:
        import pandas
    except ModuleNotFoundError as error:
        assert error.name == "pandas"
    else:
        raise AssertionError("pandas is there")
assert gc.isenabled() and gc.get_freeze_count() > 0
import pyarrow as pa
table = pa.Table.from_pylist([{"a": 1}])
assert "pandas" not in sys.modules
assert list(table.to_pandas()["a"]) == [1]
print("pandas" in sys.modules)
"""


def test_pandas_is_hidden_from_a_block_and_from_arrow_until_someone_wants_it():
    ran = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n"
