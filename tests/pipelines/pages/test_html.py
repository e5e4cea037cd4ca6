"""Tests that the tree read from what the parser writes is the tree of the parser's own nodes."""

from typing import Any

import pytest
from resiliparse.parse.html import HTMLTree, NodeType, traverse_dom

from pipelines.pages.html import LEADING, parse_html, parse_leading
from pipelines.pages.tree import Element

Node = tuple[str, dict[str, str], list[Any]]

PAGES = {
    "entities": "<p title='&lt;a&gt; &quot;&amp;amp;&nbsp;'>a &amp;copy; <b>x&nbsp;&lt;y&gt;</b> \"q\" &amp;lt;",
    "names of attributes": "<div a\"b=c =d=1 e <f='>' g>t</div>",
    "names of elements": "<a:b c:d=e>x</a:b><p\0q>y</p><X-Y Z=1>z<b<c>",
    "void elements": "<p>a<br/>b<br></br><img src=x><wbr>c<hr>d<input value='>'>e",
    "comments": "<!-- a --><p>x<!----><!--a--!>y<!a><?b c ?>z<!-->q<!-- <p>no</p> -- -->",
    "raw text": "<xmp>a<b>&lt;</xmp><noembed><i></noembed><noframes><i></noframes><iframe src=x>a<b></iframe><p>end",
    "escapable text": "<title>a<b>&amp;</title><textarea>\n\n<b>&lt;</textarea><p>end",
    "text to the end": "a<plaintext>b<i>&lt;</p></plaintext>c",
    "scripts": "<script type=x-json>{'a': '<p>'}</script><p>a<script>b</script>c",
    "a script that hides its end": "<script type=x-json><!--<script>a</script>b--></script><p>c",
    "a script that hides its end twice": "<script type=x-json><!-- <script >a</script>b<SCRIPT/>d</script></script>c",
    "a script with a short comment": "<script type=x-json><!-->a</script><p>b<script type=x-json><!--->c</script><p>d",
    "a script with an open comment": "<script type=x-json><!-- a </script><p>b",
    "empty scripts": "<p>a<script></script><script src=x></script><style>b</style>c",
    "drawings": "<svg viewBox=1 xlink:href=a><clipPath><a xlink:href=u>z</a></clipPath><desc>&lt;p></desc></svg>q",
    "formulas": "<table><tr><td>a<svg><![CDATA[<x>&amp;]]></svg></table>b",
    "misnested": "<b><p>a</b>b<table>x<tr><td>y<p>z</table></p><a>1<a>2</a><form><form>3",
    "noscript": "<noscript><link></noscript><p>x<noscript><img src=a>t &lt; u</noscript>",
    "preformatted": "<pre>\n\n a\r\nb\tc</pre><listing>\nx</listing>",
    "deep": "<div>" * 120 + "x" + "</div>" * 60 + "y",
}


def of_nodes(text: str) -> Node:
    """Return the tree of the parser's nodes; of styles and scripts that are no JSON without the text."""
    open_nodes: list[Node] = [("#document", {}, [])]

    def enter(context: Any) -> None:
        node = context.node
        if node.type == NodeType.ELEMENT:
            del open_nodes[context.depth :]
            new: Node = (node.tag, {name: node.getattr(name) or "" for name in node.attrs}, [])
            open_nodes[-1][2].append(new)
            open_nodes.append(new)
        elif node.type == NodeType.TEXT:
            tag, attributes, children = open_nodes[context.depth - 1]
            if tag != "style" and (tag != "script" or "json" in attributes.get("type", "")):
                children.append(node.value)

    document = HTMLTree.parse(text).document
    assert document is not None
    traverse_dom(document, enter)
    return open_nodes[0]


def of_elements(element: Element) -> Node:
    children = [child if isinstance(child, str) else of_elements(child) for child in element.children]
    return (element.tag, element.attributes, children)


@pytest.mark.parametrize("name", PAGES)
def test_the_tree_is_that_of_the_parser(name: str) -> None:
    tree = parse_html(PAGES[name])
    assert of_elements(tree.root) == of_nodes(PAGES[name])
    assert tree.elements == list(tree.root.descendants())
    assert all(child.parent is e and e.elements[child.index] is child for e in tree.elements for child in e.elements)


def test_deeper_elements_stand_beside_each_other() -> None:
    tree = parse_html("<p>a</p>" + "<div>" * 1000 + "x" + "</div>" * 1000 + "<p>after</p>")
    assert max(sum(1 for _ in element.ancestors()) for element in tree.elements) < 200
    assert tree.root.text() == "a x after"
    last = tree.elements[-1]
    assert last.tag == "p"
    assert last.parent is not None
    assert last.parent.tag == "body"


LEADING_PAGES = {
    **PAGES,
    "links": "<base href=/b/><a href=1>x<a href='2#&amp;' rel=nofollow>y</a><area href=3><iframe src=4><a></iframe>",
    "frames": "<frameset><frame src=1><noframes><a href=2></noframes><frame src=3></frameset>",
    "a refresh without scripts": "<noscript><meta http-equiv=refresh content=1></noscript><meta content=2>",
    "what looks like links": "<p title='<a href=1>'>&lt;a href=2><!-- <a> --><script>'<a>'</script><style><a></style>",
    "a shadow root": "<div><a href=1></a><template shadowrootmode=open><a href=2></a><slot></slot></template></div>",
    "a template": "<template><a href=1></a></template><a href=2></a>",
    "images in the place of links": "<object data=a.png><a href=1></a></object><amp-img><a href=2></a></amp-img>",
    "a formula": "<p><math><annotation-xml encoding=text/html><a href=1>x</a></annotation-xml></math><a href=2>y</a>",
    "a drawn formula": "<b class=MathJax><a href=1>x</a></b><script type='math/tex'>x</script><a data-latex='x^2'>",
    "names with signs of markup": "<m<meta charset=x><p <a=1 <!--=2><a href=3>x</a><!-- --><q<!--><a href=4>y</a>",
    "names that only begin alike": "<abbr href=1>x</abbr><article></article><links href=3></links><metal></metal>",
}


@pytest.mark.parametrize("name", LEADING_PAGES)
def test_what_leads_elsewhere_is_found_without_a_tree_as_in_the_tree(name: str):
    def shown(elements: list[Element]) -> list[tuple[str, dict[str, str], bool]]:
        return [
            (e.tag, e.attributes, any(above.tag == "noscript" for above in e.ancestors()))
            for e in elements
            if e.tag in LEADING
        ]

    text = LEADING_PAGES[name]
    assert shown(parse_leading(text)) == shown(parse_html(text).elements)
