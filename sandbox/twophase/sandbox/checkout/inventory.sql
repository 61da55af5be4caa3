CREATE TABLE stock (
  sku    text PRIMARY KEY,
  pieces bigint NOT NULL CHECK (pieces >= 0)
);

CREATE TABLE reservation (
  order_id text NOT NULL,
  sku      text NOT NULL REFERENCES stock,
  pieces   bigint NOT NULL CHECK (pieces > 0),
  PRIMARY KEY (order_id, sku)
);
