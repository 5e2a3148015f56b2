-- Sum of numbers that does not depend on their order, as a sum of DOUBLE would in its last digits: threads add in any order.
CREATE MACRO exact_sum(numbers) AS sum(numbers::DECIMAL(38, 20))::DOUBLE;
