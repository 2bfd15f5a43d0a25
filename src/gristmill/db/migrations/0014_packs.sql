-- Allotted: its owner writes it in one edit.
select 1;
