"""Signing in and out."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from review.site.access import SIGN_IN, SIGN_OUT, Access, TooOftenError, local_path
from review.site.pages.rendering import page

router = APIRouter()


@router.get(SIGN_IN)
def ask(request: Request) -> Response:
    """The form, or the page that was asked for if nobody needs to sign in, or has done so."""
    access: Access = request.state.access
    there = local_path(request.query_params.get("next"))
    if not access.signs_in or request.state.reviewer is not None:
        return RedirectResponse(there, 303)
    return page(request, "sign_in", title="Sign in", next=there, name="", fault=None)


@router.post(SIGN_IN)
def sign_in(request: Request) -> Response:
    """Begin a session under a new token, whatever token the browser had before."""
    access: Access = request.state.access
    form = request.state.form
    name, there = form.get("name", ""), local_path(form.get("next"))
    wait = 0.0
    try:
        user = access.verified(name, form.get("password", ""), request.state.client)
    except TooOftenError as error:
        user, wait = None, error.seconds
    if user is None:
        fault = "The name or the password is wrong."
        if wait:
            fault = f"Too many tries. Wait {max(1, round(wait))} seconds, then try again."
        answer = page(request, "sign_in", 429 if wait else 401, title="Sign in", next=there, name=name, fault=fault)
        if wait:
            answer.headers["Retry-After"] = str(max(1, round(wait)))
        return answer
    token = access.sessions.begin(user.name, user.password.key, request.cookies.get(access.session_cookie))
    done = RedirectResponse(there, 303)
    done.headers.append("Set-Cookie", access.cookie(access.session_cookie, token))
    done.headers.append("Set-Cookie", access.cookie(access.form_cookie, None))
    return done


@router.post(SIGN_OUT)
def sign_out(request: Request) -> Response:
    """End the session, here and in the browser, which forgets what it kept of the pages."""
    access: Access = request.state.access
    access.sessions.end(request.cookies.get(access.session_cookie, ""))
    done = RedirectResponse(SIGN_IN, 303)
    done.headers.append("Set-Cookie", access.cookie(access.session_cookie, None))
    done.headers["Clear-Site-Data"] = '"cache"'
    return done
