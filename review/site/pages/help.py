"""How to read the pages."""

from fastapi import APIRouter, Request, Response

from review.site.pages.rendering import page

router = APIRouter()


@router.get("/help")
def guide(request: Request) -> Response:
    """What the words and numbers mean, and the keys."""
    return page(request, "help", title="How to read these pages")
