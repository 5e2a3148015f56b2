-- Mean of numbers that does not depend on their order; see exact_sum.
CREATE MACRO exact_mean(numbers) AS CASE
    WHEN count(numbers) = count(TRY_CAST(numbers AS DECIMAL(38, 20))) THEN avg(TRY_CAST(numbers AS DECIMAL(38, 20)))
    ELSE avg(numbers)
END;
