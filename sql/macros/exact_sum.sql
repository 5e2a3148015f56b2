-- Sum of numbers that does not depend on their order, as a sum of DOUBLE would in its last digits: threads add in any order.
-- A number that is not finite makes the sum that of DOUBLE.
CREATE MACRO exact_sum(numbers) AS CASE
    WHEN count(numbers) = count(TRY_CAST(numbers AS DECIMAL(38, 20))) THEN sum(TRY_CAST(numbers AS DECIMAL(38, 20)))::DOUBLE
    ELSE sum(numbers)
END;
