from experiments import instance_memory


def test_rows_stand_beside_the_plain_network_and_the_published_one():
    rows = [
        {"variant": name, "depth": 50, "dtype": "float32", "peak_bytes": size, "temporary_bytes": 1}
        for name, size in (("r50-none", 4e9), ("r50-rcca", 4.1e9))
    ]
    rows += [{**rows[1], "variant": "r101-rcca", "depth": 101}]
    lines = instance_memory.tables({"rows": rows})["training"].splitlines()
    assert lines[2:] == [
        "| `coco:r50-none` | float32 | 4.00 | +0.0 % | 4.4 |",
        "| `coco:r50-rcca` | float32 | 4.10 | +2.5 % | - |",
        "| `coco:r101-rcca` | float32 | 4.10 | - | - |",
    ]
