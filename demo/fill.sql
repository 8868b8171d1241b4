-- From the temporary table `listed`, in the sampling order, into the relations.
INSERT INTO maintainers (name, email) SELECT DISTINCT maintainer, email FROM listed;
INSERT INTO sections (name) SELECT DISTINCT section FROM listed;
INSERT INTO packages (name, version, section_id, maintainer_id, installed_size, description)
SELECT l.name, l.version, s.id, m.id, l.installed_size, l.description
  FROM listed l
  JOIN sections s ON s.name = l.section
  JOIN maintainers m ON m.name = l.maintainer AND m.email = l.email
 ORDER BY l.position;
