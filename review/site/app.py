"""The page: an application that shows a lake, composed of the routers in `review.site.pages`."""

from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import sql
from review.report.html import ReportError
from review.site.access import Access, Guard
from review.site.lake_cache import Lens, UnknownError
from review.site.pages import (
    alerts,
    compare,
    decisions,
    downloads,
    errors,
    overview,
    pairs,
    pictures,
    runs,
    sign_in,
    sql_page,
)
from review.site.pages import help as guide
from review.site.pages.rendering import BadFilterError, page
from review.site.settings import ReviewSettings
from stores import Root

STATIC: Final = Path(__file__).parent.parent / "static"
_ROUTERS: Final = tuple(
    each.router
    for each in (
        sign_in,
        decisions,
        overview,
        alerts,
        runs,
        pairs,
        pictures,
        compare,
        errors,
        sql_page,
        guide,
        downloads,
    )
)


def create_app(lake: Root, settings: ReviewSettings | None = None) -> FastAPI:
    """The application over a lake; every request passes `review.site.access` before a page sees it.

    Raises AccessError for settings that would let in whom nobody meant to, UsersError for a users file that is none.
    """
    app = FastAPI(title="m2ib-audit review", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.settings = settings or ReviewSettings()
    app.state.lens = Lens(lake, app.state.settings.remote_corpora)
    app.state.signer = app.state.settings.signer
    app.add_middleware(Guard, access=Access(app.state.settings))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for router in _ROUTERS:
        app.include_router(router)
    app.add_exception_handler(UnknownError, _unknown)
    app.add_exception_handler(BadFilterError, _bad_filter)
    app.add_exception_handler(sql.LakeError, _damaged)
    app.add_exception_handler(ReportError, _no_report)
    app.add_exception_handler(HTTPException, _refused)
    return app


async def _unknown(request: Request, error: Exception) -> Response:
    return page(request, "problem", 404, title="Not found", told=str(error))


async def _bad_filter(request: Request, error: Exception) -> Response:
    return page(request, "problem", 400, title="This cannot be asked for", told=str(error))


async def _damaged(request: Request, error: Exception) -> Response:
    return page(request, "problem", 503, title="This part of the lake cannot be read", told=str(error))


async def _no_report(request: Request, error: Exception) -> Response:
    return page(request, "problem", 503, title="This report cannot be made", told=str(error))


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = "Not found" if status == 404 else "Refused"
    told = "There is no such page." if status == 404 else str(getattr(error, "detail", error))
    return page(request, "problem", status, title=title, told=told)
