-- Mean of the values outside of a slice, from mean and number of the whole and of the slice; NULL if there are none.
CREATE MACRO mean_elsewhere(whole, whole_n, inside, inside_n) AS
    (whole * whole_n - inside * inside_n) / nullif(whole_n - inside_n, 0);
