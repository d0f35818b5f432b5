"""Two versions answered the same requests, and labels tell: is one of them right more often?"""

import math

from scipy import special

_LARGEST = 1e300


def mcnemar(first_only: int, second_only: int) -> float:
    """E-value against "each is as often the only one to be right"; may be looked at always.

    Pairs on which both are right, or both wrong, say nothing (McNemar 1947). For the others a
    uniform mixture over the share that the first one has, against one half::

        E = 2^(b + c) * B(1 + b, 1 + c)

    Worked: 20 against 5 gives 24.29. A test for one direction only is that of a share (``share``)
    with a bound of one half.
    """
    pairs = first_only + second_only
    log_e = pairs * math.log(2.0) + float(special.betaln(1 + first_only, 1 + second_only))
    return math.exp(min(log_e, math.log(_LARGEST)))
