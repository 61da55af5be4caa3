# One image for the coordinator and for services that take part: `twophase serve ...` or `twophase participant ...`.
# docker-compose.yml shows both. Only the client library is needed elsewhere: pip install twophase.
FROM python:3.13-slim AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protos protos
COPY participant participant
COPY coordinator coordinator
COPY sandbox sandbox
COPY benchmarks benchmarks
RUN python -m venv /opt/twophase \
 && /opt/twophase/bin/pip install --quiet --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt '.[participant,coordinator]'

FROM python:3.13-slim
# Where the coordinator's journal goes: mount a volume here, it must outlive the container. A new one takes over the owner.
# Not declared as VOLUME, or every service that runs from this image would leave an empty one behind.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin twophase \
 && install --directory --owner=twophase --group=twophase --mode=0700 /var/lib/twophase
COPY --from=build /opt/twophase /opt/twophase
ENV PATH=/opt/twophase/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER twophase
WORKDIR /var/lib/twophase
EXPOSE 7400
ENTRYPOINT ["twophase"]
CMD ["--help"]
