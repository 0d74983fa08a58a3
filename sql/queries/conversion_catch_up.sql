-- Attribute conversions that reached us before the click or view they follow.
SELECT conversion_catch_up(%(since)s, %(click_window)s, %(view_window)s)
