CREATE TABLE closed_area (
  area text PRIMARY KEY
);

CREATE TABLE delivery (
  order_id text PRIMARY KEY,
  area     text NOT NULL
);
