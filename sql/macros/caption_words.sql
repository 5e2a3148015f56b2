-- Distinct words of a caption in lower case. Invisible format characters are not part of a word.
CREATE MACRO caption_words(caption) AS
    list_distinct(regexp_extract_all(lower(regexp_replace(caption, '\p{Cf}', '', 'g')), '[\p{L}\p{N}][\p{L}\p{N}\p{M}]*'));
