-- Ratio of a region's share of mass to its share of the area. For phrases the ratio of their odds, with the share of mass limited
-- to 99.9% so that it stays finite.
CREATE MACRO concentration(side, share, area) AS
    CASE side WHEN 'image' THEN share / area ELSE least(share, 0.999) / (1 - least(share, 0.999)) * (1 - area) / area END;
