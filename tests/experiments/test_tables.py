"""The tables of experiments from small results."""

from experiments import attention_memory, testing_memory


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
