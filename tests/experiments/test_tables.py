"""The tables of experiments from small results."""

from experiments import attention_memory, data_throughput, testing_memory


def test_attention_memory():
    sizes = [("a", 97, "float32", 44.67, 113.4), ("a", 128, "bfloat16", 76.2, 193.9)]
    sizes += [("b", 97, "float32", 708.0, 1106.4)]
    rows = [
        {"module": name, "height": side, "width": side, "dtype": dtype, "forward": forward, "both": both}
        for name, side, dtype, forward, both in sizes
    ]
    assert attention_memory.tables({"sizes": rows})["sizes"].splitlines() == [
        "| MB, forward / forward + backward | 97x97 float32 | 128x128 bfloat16 |",
        "|---|---|---|",
        "| a | 45 / 113 | 76 / 194 |",
        "| b | 708 / 1106 |  |",
    ]


def test_testing_memory_takes_the_largest_step():
    rows = [
        {"mode": mode, "classes": classes, "steps": {"network": network, "add": 2_000_000_000}}
        for mode, classes, network in (("whole", 19, 10**9), ("whole", 150, 3 * 10**9), ("slide", 19, 0))
    ]
    rows += [{"mode": "slide", "classes": 150, "steps": {"network": 1.26e9}}]
    assert testing_memory.tables({"rows": rows})["modes"].splitlines() == [
        "| GB | 19 classes | 150 classes |",
        "|---|---|---|",
        "| whole | 2.0 | 3.0 |",
        "| slide | 2.0 | 1.3 |",
    ]


def test_data_throughput():
    tables = data_throughput.tables(
        {
            "samples_per_second_and_worker": {"1": {"here": 16.5, "opencv": 11.1, "ratio": 1.512}},
            "milliseconds": {"stack": {"here": 0.06, "opencv": 0.04}},
            "decoders": {"png": {"imagecodecs": 40.8, "Pillow": 76.2}},
        }
    )
    assert "| 1 worker | 16.5 | 11.1 | 1.51 |" in tables["rates"]
    assert "| stack | 0.1 | 0.0 |" in tables["stages"]
    assert tables["decoders"].splitlines()[0] == "| ms a 2048x1024 picture | imagecodecs | Pillow |"
    assert "| PNG | 40.8 | 76.2 |" in tables["decoders"]
