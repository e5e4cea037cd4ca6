"""The start site: a wall of images, and links to all other sites."""

import re

from tools.demo_web.galleries import random_scene
from tools.demo_web.scene import Scene, draw
from tools.demo_web.site import ADDRESSES, Reply, Site, escape, image_reply, link_list, sitemap, text_reply
from tools.demo_web.wording import caption

WALL = 60  # images on the first page

STYLE = """
body { font: 17px/1.5 Georgia, serif; max-width: 52rem; margin: 0 auto; padding: 0 1rem; color: #222; }
header { display: flex; gap: 2rem; align-items: center; border-bottom: 1px solid #ccc; padding: .6rem 0; }
nav ul, ul.listing { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: 0; }
.wall { display: grid; grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: 6px; }
img, video { width: 128px; height: auto; border-radius: 4px; } .wall img { width: 100%; }
header img { width: 32px; } figure { margin: .8rem 0; } figcaption { color: #666; }
footer, aside { border-top: 1px solid #ccc; color: #888; font-size: .85em; }
"""


class Start(Site):
    """First page, style sheet, logo, and the index of all sitemaps."""

    name = "start"
    title = "The Demo Web"
    about = "A small web that is made up from a seed."
    sections = ()

    def extra(self, path: str) -> Reply | None:
        if path == "/":
            return self._first_page()
        if path == "/style.css":
            return text_reply(STYLE, "text/css")
        if path == "/logo.png":
            return image_reply(draw(self._scene(0)), "png")
        if path == "/robots.txt":
            # Other sites' sitemaps are not listed here: each site's robots.txt names its own.
            return text_reply(f"User-agent: *\nAllow: /\n\nSitemap: {self.url('/sitemap-index.xml')}\n")
        if path == "/sitemap-index.xml":
            return sitemap([self.url("/sitemap.xml")], index=True)
        match = re.fullmatch(r"/wall/(\d+)\.jpg", path)
        if match and 1 <= int(match[1]) <= WALL:
            return image_reply(draw(self._scene(int(match[1]))), "jpg")
        return None

    def _scene(self, n: int) -> Scene:
        return random_scene(self.web, f"wall {n}", held_out=False)

    def _first_page(self) -> Reply:
        links = link_list([(self.web.url(name), name) for name in ADDRESSES if name != self.name])
        wall = "".join(
            f'<img src="/wall/{n}.jpg" alt="" title="{escape(caption(self._scene(n), self.web.random("wall", n)))}">'
            for n in range(1, WALL + 1)
        )
        return self.frame(self.title, f'<p>{self.about}</p>{links}<div class="wall">{wall}</div>')
