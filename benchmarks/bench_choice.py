"""How good the choice of form="auto" is: both forms of many problems, and how much longer the chosen one takes."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CHOICE, DTYPE
from contestants import installed_backends

from taylorshift_core import explain, load_backend
from taylorshift_core.cli._measure import FORMS, runner
from taylorshift_core.cli.figures.turns import take_turns

CLOSE, OFTEN, WORST = 1.10, 0.95, 1.5


@pytest.mark.parametrize("name", sorted({"numpy", "torch", "jax"} & {*installed_backends()}))
def test_auto_is_close_to_the_better_form(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    backend = load_backend(name)
    rows = []
    for case in CHOICE:
        arrays, options = case.draw(DTYPE)
        on_device = {key: backend.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in options.items()}
        plans = {form: explain(*map(backend.from_numpy, arrays), form=form, **on_device) for form in (*FORMS, "auto")}
        runs = [runner(backend, arrays, form=form, **options) for form in FORMS]
        seconds = np.median(take_turns(runs, seconds=0.6, fewest=3, most=15), axis=0)
        chosen = FORMS.index(plans["auto"].form)
        predicted = [plans[form].seconds / measured for form, measured in zip(FORMS, seconds, strict=True)]
        rows.append((seconds[chosen] / seconds.min(), case, plans["auto"].form, seconds, predicted))
    ratios = np.asarray([row[0] for row in rows])
    share = float(np.mean(ratios <= CLOSE))
    with capsys.disabled():
        print(
            f"\n{name}: the form chosen takes at most {CLOSE:.2f} times the better one in {100 * share:.0f} % ", end=""
        )
        print(f"of {len(rows)} problems, {ratios.max():.2f} times at worst")
        for ratio, case, form, seconds, predicted in sorted(rows, key=lambda row: -row[0]):
            if ratio > CLOSE:
                times = ", ".join(
                    f"{each} {1e3 * s:.3g} ms (predicted {p:.2f} of it)"
                    for each, s, p in zip(FORMS, seconds, predicted, strict=True)
                )
                print(f"  {ratio:.2f}  {form} chosen: {times}  {case}")
    assert len(rows) >= 60
    assert share >= OFTEN
    assert ratios.max() < WORST
