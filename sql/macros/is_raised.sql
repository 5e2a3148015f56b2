-- Whether people are notified of an alert in some state: [alerts] raise of its run. Runs of an early version raised all.
CREATE MACRO is_raised(state, raises) AS state = 'confirmed' OR coalesce(raises, 'suspected') = 'suspected';
