"""`ConvSpec`: everything about a convolution except its data.

Letters: input `n c h w`, filter `k r s`, output `p q`, groups `g`. The cross-correlation of the field:
`y[n,k,p,q] = sum_{c,r,s} x[n, c, p*sh + r*dh - top, q*sw + s*dw - left] * w[k,c,r,s]`, zero outside the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from waterline.errors import InvalidArgument
from waterline.spec.activation import Activation

# "tf32" is f32 whose products are of operands rounded to 10 bits of mantissa.
DTYPE_BYTES = {"f32": 4, "tf32": 4, "bf16": 2, "f16": 2, "i8": 1}
INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Epilogue:
    """What happens to an output element between the last multiply-add and its only store.

    In order: add `bias[k]`, apply `before`, add the residual tensor, apply `after`.
    """

    bias: bool = False
    before: Activation | None = None
    residual: bool = False
    after: Activation | None = None

    def __str__(self) -> str:
        parts = ["bias"] if self.bias else []
        parts += [str(self.before)] if self.before else []
        parts += ["add"] if self.residual else []
        parts += [str(self.after)] if self.after else []
        return "+".join(parts) or "none"


@dataclass(frozen=True)
class ConvSpec:
    """A two-dimensional convolution. `pad` is (top, left, bottom, right) and may be negative (cropping).

    `c` and `k` count the channels of all groups together. `upsample` puts that many minus one zeros between
    neighbouring input elements before anything else, which makes a transposed convolution of a strided one.
    `epilogue` is not part of the id.
    """

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    upsample: tuple[int, int] = (1, 1)
    dtype: str = "f32"
    epilogue: Epilogue = field(default=Epilogue())

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise InvalidArgument(f"dtype {self.dtype!r} is not one of {', '.join(DTYPE_BYTES)}")
        for name in "nchw":
            if getattr(self, name) < 0:
                raise InvalidArgument(f"convolution with {name}={getattr(self, name)}: sizes are not negative")
        for name in "krs":
            if getattr(self, name) < 1:
                raise InvalidArgument(f"convolution with {name}={getattr(self, name)}: filters are not empty")
        if min(*self.stride, *self.dilation, *self.upsample, self.groups) < 1:
            raise InvalidArgument(
                f"stride {self.stride}, dilation {self.dilation}, upsampling {self.upsample} and groups {self.groups} "
                "must be at least 1"
            )
        if self.c % self.groups or self.k % self.groups or self.c == 0:
            raise InvalidArgument(f"{self.groups} groups do not divide {self.c} input and {self.k} output channels")
        if self.p < 1 or self.q < 1:
            raise InvalidArgument(
                f"the filter ({self.r}x{self.s}, dilation {self.dilation}) is larger than the padded input "
                f"({self.h}x{self.w}, pad {self.pad})"
            )
        if max(self.n, 1) * max(self.c * self.h * self.w, self.k * self.p * self.q) * self.elem_bytes > INT64_MAX:
            raise InvalidArgument(f"the tensors of {self.n}x{self.c}x{self.h}x{self.w} exceed 63-bit addresses")

    # ---- shapes -------------------------------------------------------------------------------------------------
    @property
    def p(self) -> int:
        """Rows of the output."""
        room = self.upsampled_h + self.pad[0] + self.pad[2] - self.dilation[0] * (self.r - 1) - 1
        return room // self.stride[0] + 1

    @property
    def q(self) -> int:
        """Columns of the output."""
        room = self.upsampled_w + self.pad[1] + self.pad[3] - self.dilation[1] * (self.s - 1) - 1
        return room // self.stride[1] + 1

    @property
    def upsampled_h(self) -> int:
        return (self.h - 1) * self.upsample[0] + 1

    @property
    def upsampled_w(self) -> int:
        return (self.w - 1) * self.upsample[1] + 1

    @property
    def group_c(self) -> int:
        """Input channels of one group."""
        return self.c // self.groups

    @property
    def group_k(self) -> int:
        """Output channels of one group."""
        return self.k // self.groups

    @property
    def taps(self) -> int:
        return self.r * self.s

    @property
    def elem_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.c and self.groups > 1

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 filter at stride 1 without padding: a matrix product on the input as it lies."""
        return self.taps == 1 and self.stride == self.upsample == (1, 1) and self.pad == (0, 0, 0, 0)

    # ---- counts -------------------------------------------------------------------------------------------------
    @property
    def macs(self) -> int:
        """Multiply-adds of the direct algorithm; padding counts as if it were data, as the papers do.

        Inserted zeros do not count: of `upsample` neighbouring elements one is data.
        """
        zeros = self.upsample[0] * self.upsample[1]
        return self.n * self.k * self.p * self.q * self.group_c * self.taps // zeros

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def input_bytes(self) -> int:
        return self.n * self.c * self.h * self.w * self.elem_bytes

    @property
    def weight_bytes(self) -> int:
        return self.k * self.group_c * self.taps * self.elem_bytes

    @property
    def output_bytes(self) -> int:
        return self.n * self.k * self.p * self.q * self.elem_bytes

    @property
    def least_bytes(self) -> int:
        """Every input, weight and output element moved once (the residual, if any, is one more input)."""
        residual = self.output_bytes if self.epilogue.residual else 0
        return self.input_bytes + self.weight_bytes + self.output_bytes + residual

    # ---- identity -----------------------------------------------------------------------------------------------
    @property
    def id(self) -> str:
        """For example `n1_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g1_f32`; `parse` reads it back."""
        stride = _join(self.stride)
        dilation = _join(self.dilation)
        top, left, bottom, right = self.pad
        pad = _join((top, left)) if (top, left) == (bottom, right) else "x".join(map(str, self.pad))
        return (
            f"n{self.n}_c{self.c}_h{self.h}_w{self.w}_k{self.k}_r{self.r}_s{self.s}"
            f"_st{stride}_pd{pad}_dl{dilation}_g{self.groups}"
            f"{'' if self.upsample == (1, 1) else '_up' + _join(self.upsample)}_{self.dtype}"
        )

    @classmethod
    def parse(cls, text: str) -> ConvSpec:
        """Read an id. Raises InvalidArgument with the form that is accepted."""
        match = _ID.fullmatch(text.strip())
        if match is None:
            raise InvalidArgument(
                f"{text!r} is not a convolution's id",
                "write it like n1_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g1_f32 "
                "(st2x1, pd0x1 or pd0x0x1x1 where sides differ)",
            )
        pads = [int(v) for v in match["pd"].split("x")]
        pads = {1: pads * 4, 2: pads * 2, 4: pads}.get(len(pads), pads)
        if len(pads) != 4:
            raise InvalidArgument(f"{text!r}: padding has one, two or four numbers")
        n, c, h, w, k, r, s = (int(match[name]) for name in "nchwkrs")
        return cls(
            n,
            c,
            h,
            w,
            k,
            r,
            s,
            stride=_pair(match["st"]),
            pad=(pads[0], pads[1], pads[2], pads[3]),
            dilation=_pair(match["dl"]),
            groups=int(match["g"]),
            upsample=_pair(match["up"] or "1"),
            dtype=match["dtype"] or "f32",
        )

    def with_batch(self, n: int) -> ConvSpec:
        return replace(self, n=n)

    def with_epilogue(self, epilogue: Epilogue) -> ConvSpec:
        return replace(self, epilogue=epilogue)


_ID = re.compile(
    r"n(?P<n>\d+)_c(?P<c>\d+)_h(?P<h>\d+)_w(?P<w>\d+)_k(?P<k>\d+)_r(?P<r>\d+)_s(?P<s>\d+)"
    r"_st(?P<st>\d+(x\d+)?)_pd(?P<pd>-?\d+(x-?\d+)*)_dl(?P<dl>\d+(x\d+)?)_g(?P<g>\d+)"
    r"(_up(?P<up>\d+(x\d+)?))?(_(?P<dtype>[a-z]+\d+))?"
)


def _join(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _pair(text: str) -> tuple[int, int]:
    values = [int(v) for v in text.split("x")]
    return values[0], values[-1]
