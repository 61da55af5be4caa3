CREATE TABLE orders (
  order_id    text PRIMARY KEY,
  customer_id text NOT NULL,
  area        text NOT NULL
);

CREATE TABLE order_line (
  order_id   text NOT NULL REFERENCES orders,
  line       integer NOT NULL,
  sku        text NOT NULL,
  quantity   integer NOT NULL CHECK (quantity > 0),
  unit_price numeric(20, 4) NOT NULL CHECK (unit_price >= 0),
  PRIMARY KEY (order_id, line)
);
