"""Pages of the site, one module per subject; `review.site.app` includes the router of each."""
