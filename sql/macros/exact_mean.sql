-- Mean of numbers that does not depend on their order; see exact_sum.
CREATE MACRO exact_mean(numbers) AS avg(numbers::DECIMAL(38, 20));
