"""Tests of formulas: the TeX of a page's author, else one readable line of the MathML, and each formula once."""

import pytest

from tests.pipelines.pages.parsed import parse, shown

MATHML = "<mrow><mi>x</mi><mo>=</mo><mn>1</mn></mrow>"


def with_annotation(encoding: str, text: str, attributes: str = "") -> str:
    annotation = f"<annotation encoding='{encoding}'>{text}</annotation>"
    return f"<math {attributes}><semantics>{MATHML}{annotation}</semantics></math>"


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
    ],
)
def test_a_formula_is_its_tex_once_and_within_its_line(markup: str, text: str) -> None:
    assert shown(parse(f"<p>Here {markup} holds.</p>")) == [f"Here {text} holds."]


def test_a_displayed_formula_stands_in_a_line_of_its_own() -> None:
    for markup in (
        f"<math display=block alttext='x=1'>{MATHML}</math>",
        "<script type='math/tex; mode=display'>x=1</script>",
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
    assert dict(page.skipped) == {"formula_image": 2}
    assert [image.url for image in page.images] == ["http://site.example/folder/c.png"]  # nobody says what it shows
