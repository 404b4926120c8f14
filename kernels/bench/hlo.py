"""The bytes of device memory that a compiled program reads and writes, from XLA's text of it.

Each instruction that is a kernel (a fusion, a call of a library, a copy) reads its operands and writes its
result once. A kernel that reads or writes only a slice of an array counts the slice. The body of a loop
counts as often as it runs, where the compiler knows that. What a kernel finds in the GPU's cache, it need not
read from memory: the sum is an upper estimate of a lower bound, close where arrays are larger than the cache.
"""

import dataclasses
import math
import re

_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+?(\d+)[a-z0-9]*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("partition-id", "replica-id", "async-done", "async-update", "copy-done", "all-reduce-done"),
}
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    bytes: int  # of the result
    operands: list[str]
    text: str  # what follows the opcode
    root: bool

    def called_name(self, attribute: str) -> str:
        """The name of a computation that the instruction calls, "" where it calls none by this attribute."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.text)
        return match[1] if match else ""


Computation = dict[str, _Instruction]


def accessed_bytes(text: str) -> int:
    """Bytes that the optimized program reads from device memory and writes to it.

    Args:
      text: of the program, as `compiled.as_text()` gives it.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _parse(text)
    if not entry:
        raise ValueError("the text is no HLO module: it has no ENTRY computation")
    return _of_computation(computations, entry)


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    """{name: its instructions by name} of every computation, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            root, name, shape, opcode, rest = match.groups()
            operands = re.findall(r"%([\w.\-]+)", _inside(rest))
            current[name] = _Instruction(name, opcode, _bytes(shape), operands, rest, bool(root))
    return computations, entry


def _inside(text: str) -> str:
    """The text up to the parenthesis that closes an instruction's operands."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:i]
    return text


def _bytes(shape: str) -> int:
    """Of an array's type, or of a tuple's."""
    total = 0
    for dtype, bits, sides in _ARRAY.findall(shape):
        wide = 8 if dtype == "pred" else 16 if dtype == "bf16" else int(bits)
        total += math.ceil(math.prod(map(int, filter(None, sides.split(",")))) * wide / 8)
    return total


def _of_computation(computations: dict[str, Computation], name: str) -> int:
    instructions = computations.get(name, {})
    return sum(_of_instruction(computations, instructions, x) for x in instructions.values())


def _of_instruction(computations: dict[str, Computation], around: Computation, x: _Instruction) -> int:
    if x.opcode in _FREE:
        return 0
    if x.opcode == "while":
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', x.text)
        return int(trips[1] if trips else 1) * _of_computation(computations, x.called_name("body"))
    if x.opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", x.text)
        names = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
        names += [x.called_name("true_computation"), x.called_name("false_computation")]
        return max(_of_computation(computations, name) for name in names)
    if x.opcode in ("call", "async-start"):
        return _of_computation(computations, x.called_name("to_apply") or x.called_name("calls"))
    if x.opcode == "fusion":
        return _of_fusion(computations[x.called_name("calls")], [around[name].bytes for name in x.operands])
    if x.opcode in _SLICES:
        return 2 * x.bytes
    if x.opcode == "dynamic-update-slice":
        return 2 * around[x.operands[1]].bytes
    return x.bytes + sum(around[name].bytes for name in x.operands if name in around)


def _of_fusion(inside: Computation, operands: list[int]) -> int:
    """Bytes that a fused kernel reads and writes; operands: bytes of each."""
    users: dict[str, list[_Instruction]] = {}
    for x in inside.values():
        for name in x.operands:
            users.setdefault(name, []).append(x)
    parameters = {int(_inside(x.text)): x for x in inside.values() if x.opcode == "parameter"}
    total = 0
    for number, whole in enumerate(operands):
        total += min(
            whole,
            sum(_read(x, parameters[number].name, whole) for x in users.get(parameters[number].name, [])),
        )
    root = next(x for x in inside.values() if x.root)
    outputs = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return total + sum(_written_bytes(inside, x) for x in outputs)


def _read(user: _Instruction, name: str, whole: int) -> int:
    """What an instruction inside a kernel reads of the parameter `name`, which has `whole` bytes."""
    if user.opcode in _SLICES and user.operands[0] == name:
        return user.bytes
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
        return 0  # updated where it lies
    return whole


def _written_bytes(inside: Computation, output: _Instruction) -> int:
    """What a kernel writes of one of its results."""
    while output.opcode == "bitcast" and output.operands[0] in inside:
        output = inside[output.operands[0]]
    if output.opcode == "dynamic-update-slice":
        return inside[output.operands[1]].bytes
    return output.bytes
