"""Tests of formulas: the TeX of a page's author, else one readable line of the MathML, and each formula once."""

import time

import pytest

from tests.pipelines.pages.parsed import num_skipped, parse, shown

MATHML = "<mrow><mi>x</mi><mo>=</mo><mn>1</mn></mrow>"


def with_annotation(encoding: str, text: str, attributes: str = "") -> str:
    annotation = f"<annotation encoding='{encoding}'>{text}</annotation>"
    return f"<math {attributes}><semantics>{MATHML}{annotation}</semantics></math>"


SHA1 = "0123456789abcdef0123456789abcdef01234567"
WIKIPEDIA = (
    "<span class='mwe-math-element'><span class='mwe-math-mathml-inline mwe-math-mathml-a11y' style='display: none;'>"
    "<math alttext='{{\\displaystyle E=mc^{{2}}}}'><semantics><mrow><mi>E</mi></mrow>"
    "<annotation encoding='application/x-tex'>{{\\displaystyle E=mc^{{2}}}}</annotation></semantics></math></span>"
    "<img src='https://w.example/media/math/render/svg/ab12' class='mwe-math-fallback-image-inline' aria-hidden=true "
    "style='width:8ex' alt='{{\\displaystyle E=mc^{{2}}}}'></span>"
).replace("{{", "{").replace("}}", "}")  # fmt: skip


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (with_annotation("application/x-tex", "x=1"), "$x=1$"),
        (with_annotation("TeX", " x =\n 1 "), "$x = 1$"),
        (with_annotation("LaTeX", "$x=1$"), "$x=1$"),
        (with_annotation("text/x-latex", r"\(x=1\)"), "$x=1$"),
        (with_annotation("text/plain", "no"), "x = 1"),
        (with_annotation("MathType-MTEF", "MathType@xx"), "x = 1"),
        (f"<math alttext='x=1'>{MATHML}</math>", "$x=1$"),
        (f"<math alttext='x is equal to one'>{MATHML}</math>", "x is equal to one"),
        (with_annotation("TeX", "x=1", "alttext='x=2'"), "$x=1$"),
        (WIKIPEDIA, "${\\displaystyle E=mc^{2}}$"),
        (
            f"<span class=katex><span class=katex-mathml>{with_annotation('application/x-tex', 'x=1')}</span>"
            "<span class=katex-html aria-hidden=true><span>x</span>=<span>1</span></span></span>",
            "$x=1$",
        ),
        ("<script type='math/tex'>x=1</script>", "$x=1$"),
        (
            "<span class=MathJax_Preview>x=1</span><span class=MathJax id=e-1-Frame><nobr>x = 1</nobr></span>"
            "<script type='math/tex' id=e-1>x=1</script>",
            "$x=1$",
        ),
        (
            f"<span class=MathJax>x=1</span><script type='math/mml'><math>{MATHML}</math></script>",
            "x = 1",
        ),
        ("<span class=MathJax>x=1</span><script type='math/asciimath'>x = 1/2</script>", "x = 1/2"),
        ("<script type='math/mml'>no markup</script>", "no markup"),
        (f"<mjx-container><mjx-math aria-hidden=true></mjx-math><math>{MATHML}</math></mjx-container>", "x = 1"),
        ("<img src='https://s0.example/latex.php?latex=x%3D1' alt='x=1' class=latex>", "$x=1$"),
        ("<img src='//latex.codecogs.com/gif.latex?x' alt='x'>", "$x$"),
        (f"<img class=math src='../_images/math/{SHA1}.png' alt='x=1'>", "$x=1$"),
        (f"<img src='_images/math/{SHA1}.svg' alt='x=1'>", "$x=1$"),
        (f"<img src='/w/images/math/0/1/{SHA1[:32]}.png' alt='x=1'>", "$x=1$"),
        ("<img src='https://z.example/equation?tex=x%3D1' alt='x=1'>", "$x=1$"),
        ("<img data-latex='x=1' src=a.png>", "$x=1$"),
        ("<span data-latex='x=1'><span>x = 1</span></span>", "$x=1$"),
        ("<span class=ztext-math data-tex='x=1'>x=1</span>", "$x=1$"),
        ("<span data-formula='x=1'><svg></svg></span>", "$x=1$"),
        ("<span data-formula='C6H12O6'>Glucose</span>", "Glucose"),
        ("<span class=ql-formula data-value='x=1'></span>", "$x=1$"),
        (f"<span class=MathJax data-mathml='<math>{MATHML}</math>'><nobr>x</nobr></span>", "x = 1"),
        (
            f"<span class=MathJax data-mathml='<math>{MATHML}</math>'></span><script type='math/tex'>x=1</script>",
            "$x=1$",
        ),
        ("<span class=MathJax data-mathml='no markup'>x = 1</span>", "x = 1"),
        (
            "<mjx-container><mjx-math data-latex='x=1'><mjx-mi data-latex=x></mjx-mi></mjx-math></mjx-container>",
            "$x=1$",
        ),
        (
            "<mjx-container><svg><g data-mml-node=math data-latex='x=1'></g></svg>"
            f"<mjx-assistive-mml><math>{MATHML}</math></mjx-assistive-mml></mjx-container>",
            "$x=1$",
        ),
        (f"<math data-latex='x=1'>{MATHML}</math>", "$x=1$"),
        ("<mjx-container aria-label='x is equal to 1'><mjx-math></mjx-math></mjx-container>", "x is equal to 1"),
        ("<mjx-container aria-label='x plus y'><mjx-math></mjx-math></mjx-container>", "x plus y"),
        ("<mjx-container aria-label='x_1'><mjx-math></mjx-math></mjx-container>", "$x_1$"),
        (r"<span data-latex='\alpha\beta+\sin x'>αβ + sin 𝑥</span>", r"$\alpha\beta+\sin x$"),
        (r"<span data-latex='\text{if }a'><svg><text>if a</text></svg></span>", r"$\text{if }a$"),
        ("<span data-katex=true data-latex='x=1'>x=1</span>", "$x=1$"),
        (
            "<span class='mjx-chtml MJXc-display'><span class='mjx-chtml MathJax_CHTML' "
            f"data-mathml='<math>{MATHML}</math>'></span></span><script type='math/tex'>x=1</script>",
            "$x=1$",
        ),
        (
            f"<span class='mjx-chtml' data-mathml='<math>{MATHML}</math>'></span><script type='math/tex'>x=1</script>",
            "$x=1$",
        ),
    ],
)
def test_a_formula_is_its_tex_once_and_within_its_line(markup: str, text: str) -> None:
    assert shown(parse(f"<p>Here {markup} holds.</p>")) == [f"Here {text} holds."]


def test_a_displayed_formula_stands_in_a_line_of_its_own() -> None:
    for markup in (
        f"<math display=block alttext='x=1'>{MATHML}</math>",
        "<script type='math/tex; mode=display'>x=1</script>",
        "<mjx-container display=true><mjx-math data-latex='x=1'></mjx-math></mjx-container>",
        "<div data-latex='x=1'></div>",
    ):
        assert shown(parse(f"<div>Here {markup} holds.</div>")) == ["Here", "$$x=1$$", "holds."]


@pytest.mark.parametrize(
    ("mathml", "text"),
    [
        ("<mi>A</mi><mo>=</mo><mfrac><mn>1</mn><mn>2</mn></mfrac><msup><mi>r</mi><mn>2</mn></msup>", "A = 1/2 r^2"),
        (
            "<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><msqrt><mn>2</mn><mi>c</mi></msqrt></mfrac>",
            "(a + b)/(√2c)",
        ),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", "3√x"),
        ("<msubsup><mi>x</mi><mi>i</mi><mrow><mi>n</mi><mo>-</mo><mn>1</mn></mrow></msubsup>", "x_i^(n - 1)"),
        ("<mi>sin</mi><mo>&#x2061;</mo><mi>y</mi><mo>&le;</mo><mn>2</mn><mo>&#x2062;</mo><mi>z</mi>", "sin y ≤ 2z"),
        ("<mo>(</mo><mi>x</mi><mo>,</mo><mo>-</mo><mi>y</mi><mo>)</mo>", "(x, -y)"),
        ("<mfenced><mi>x</mi><mi>y</mi></mfenced>", "(x, y)"),
        ("<mfenced open='[' close=')' separators=';'><mi>x</mi><mi>y</mi></mfenced>", "[x; y)"),
        ("<mover><mi>x</mi><mo>¯</mo></mover><mo>=</mo><mn>0</mn>", "x¯ = 0"),
        ("<mtext>if&nbsp;</mtext><mi>x</mi><mo>&gt;</mo><mn>0</mn>", "if x > 0"),
        (
            "<mo>[</mo><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd>"
            "<mtd><mi>a</mi><mo>+</mo><mi>b</mi></mtd></mtr></mtable><mo>]</mo>",
            "[1 0; 0 a + b]",
        ),
        ("<mphantom><mi>x</mi></mphantom><mi>y</mi>", "y"),
        (
            "<semantics><mi>x</mi><annotation-xml encoding='MathML-Content'><ci>no</ci></annotation-xml></semantics>",
            "x",
        ),
        ("<mmultiscripts><mi>C</mi><mn>6</mn><mn>12</mn></mmultiscripts>", "C_6^12"),
        ("<mmultiscripts><mi>R</mi><mi>i</mi><none/><none/><mi>j</mi></mmultiscripts>", "R_i^j"),
        (
            "<mmultiscripts><mi>C</mi><mprescripts/><mn>6</mn><mn>12</mn></mmultiscripts><mo>+</mo><mn>1</mn>",
            "_6^12 C + 1",
        ),
        (
            "<mmultiscripts><mi>F</mi><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><none/>"
            "<mprescripts/><mn>1</mn><none/></mmultiscripts>",
            "_1 F_(a + 1)",
        ),
        ("<mmultiscripts></mmultiscripts><mi>y</mi>", "y"),  # invalid
        ("<mfrac><mi>x</mi></mfrac>", "x"),  # invalid
        ("", ""),
    ],
)
def test_mathml_without_tex_is_one_readable_line(mathml: str, text: str) -> None:
    assert shown(parse(f"<p>Let <math>{mathml}</math>.</p>")) == [f"Let {text}."]


def test_a_formula_in_a_caption_and_in_a_table_is_text_as_well() -> None:
    page = parse(
        f"<figure><img src=a.jpg><figcaption>Energy, {WIKIPEDIA}, and <img class=latex src=b.png alt='x^2'>"
        f"</figcaption></figure><table><tr><td>a<td><math alttext='x=1'>{MATHML}</math></tr><tr><td>b<td>2</table>"
    )
    caption = "Energy, ${\\displaystyle E=mc^{2}}$, and $x^2$"
    assert shown(page) == ["<a.jpg>", f"[caption] {caption}", "a | $x=1$\nb | 2"]
    assert page.images[0].caption == caption


def test_images_of_formulas_are_counted() -> None:
    page = parse(f"<p>First {WIKIPEDIA} then <img class=tex src=b.png alt='x^2'>, <img class=tex src=c.png>.</p>")
    assert num_skipped(page) == {"formula_image": 2}
    assert [image.url for image in page.images] == ["http://site.example/folder/c.png"]  # nobody says what it shows


@pytest.mark.parametrize(
    ("markup", "text", "name"),
    [
        (
            f"<img class=Wirisformula data-mathml='<math>{MATHML}</math>' src=eq.png alt='x equals 1'>",
            "x = 1",
            "eq.png",
        ),
        (f"<img data-mathml='<math>{MATHML}</math>'>", "x = 1", None),
        ("<span data-latex='x=1'><img src=eq.png width=200></span>", "$x=1$", "eq.png"),
        ("<span data-latex='x=1'><img data-src=eq.png></span>", "$x=1$", "eq.png"),
    ],
)
def test_an_image_that_becomes_a_formula_is_counted_by_its_address(markup: str, text: str, name: str | None) -> None:
    page = parse(f"<p>Here {markup} holds.</p>")
    assert shown(page) == [f"Here {text} holds."]
    url = f"http://site.example/folder/{name}" if name else None
    assert [(element.reason, element.url) for element in page.skipped] == [("formula_image", url)]


@pytest.mark.parametrize("hidden", ["hidden", "style='display: none'"])
@pytest.mark.parametrize(
    "attribute", [f"data-mathml='<math>{MATHML}</math>'", "data-latex='x=1'"], ids=["data-mathml", "data-latex"]
)
def test_formulas_of_what_is_hidden_are_not_shown(attribute: str, hidden: str) -> None:
    page = parse(f"<p>Here <span {hidden} {attribute}><img src=eq.png></span> it is.</p>")
    assert shown(page) == ["Here it is."]


@pytest.mark.parametrize(
    ("markup", "blocks"),
    [
        ("<img src=/images/math/teacher.jpg alt='Our maths teacher with the class'>", ["<teacher.jpg>"]),
        ("<img src=_images/math/plot.png alt='A plot of the sine'>", ["<plot.png>"]),
        ("<p data-latex=true>Euler showed it.</p>", ["Euler showed it."]),
        ("<p data-tex=1>Euler showed it.</p>", ["Euler showed it."]),
        ("<p data-tex='x=1'>x</p>", ["x"]),
        ("<p>See <span class=badge data-katex=true>this word</span>.</p>", ["See this word."]),
        ("<p>See <span data-latex='x=1'>this word</span>.</p>", ["See this word."]),
        (r"<p>See <span data-latex='\sqrt{this word}+d'>words thirst</span>.</p>", ["See words thirst."]),
        ("<p>See <span data-tex=x>Euler</span>.</p>", ["See Euler."]),
        ("<ol><li>one<li data-tex=x>two words here<li>three</ol>", ["1. one\n2. two words here\n3. three"]),
        ("<div data-formula='=SUM(A1)'><img src=chart.png width=800></div>", ["<chart.png>"]),
        ("<div data-formula='x=1'></div>", []),
        ("<p><span data-formula='=SUM(A1)'><img src=chart.png></span></p>", ["<chart.png>"]),
        ("<p><span data-tex='x'><img src=a.png><img src=b.png></span></p>", ["<a.png>", "<b.png>"]),
        ("<p><span data-tex='x'><video src=a.mp4></video></span></p>", ["<a.mp4>"]),
        ("<p>Press <button data-latex='x^2'>power</button> now.</p>", ["Press now."]),
    ],
)
def test_attributes_and_names_that_only_look_like_formulas_change_nothing(markup: str, blocks: list[str]) -> None:
    page = parse(f"<p>First.</p>{markup}")
    assert shown(page) == ["First.", *blocks]
    assert page.skipped == ()


MANY = 50_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "markup",
    [
        "<mjx-container>" * MANY,
        "<mjx-container><math>" * (MANY // 2),
        "<span data-latex=x data-formula=y>" * MANY,
        "<b data-formula=y>" * MANY + "x",
        "<b data-latex=y>" * MANY + "Euler",
        "<span class=katex>" * MANY,
        f"<b data-mathml='<math>{MATHML}</math>'>" * 20_000,
        "<script type='math/tex' class=MathJax>x</script>" * 20_000,
        "<b>" * 140 + "<i></i>" * MANY + "<img class=tex alt=x></b>" * 140,
    ],
)
def test_formulas_in_one_another_take_little_time(markup: str) -> None:
    start = time.process_time()
    parse(f"<p>Text.</p>{markup}")
    assert time.process_time() - start < 3
