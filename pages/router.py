"""Chapter 3: the router."""

from mhmoe.ui import kit

kit.setup_page("router")
kit.hero(kit.t("router.claim"), kit.rich("router.subtitle"))
kit.next_chapter("router")
