CREATE EXTENSION insitu;

CREATE TABLE maintainers (
    id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text NOT NULL,
    email text NOT NULL,
    UNIQUE (name, email)
);

CREATE TABLE sections (
    id   int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

CREATE TABLE packages (
    id             int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL UNIQUE,
    version        text NOT NULL,
    section_id     int NOT NULL REFERENCES sections,
    maintainer_id  int NOT NULL REFERENCES maintainers,
    installed_size int NOT NULL,  -- kB
    description    text NOT NULL,
    emb            vector(384)
);
