-- The words of a caption, each once, in lower case. Format characters, which nobody sees, are no part of a word.
CREATE MACRO caption_words(caption) AS
    list_distinct(regexp_extract_all(lower(regexp_replace(caption, '\p{Cf}', '', 'g')), '[\p{L}\p{N}][\p{L}\p{N}\p{M}]*'));
