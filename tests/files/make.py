"""Writes the files in this folder that need libraries which the tests do not have.

pip install reportlab pypdf cryptography python-docx python-pptx openpyxl msoffcrypto-tool
python tests/files/make.py
"""

import io
from pathlib import Path

import docx
import msoffcrypto.format.ooxml
import openpyxl
import pptx
from pptx.util import Inches
from pypdf import PdfWriter
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen import canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

HERE = Path(__file__).parent


def make_pdfs() -> None:
    styles = getSampleStyleSheet()
    story = []
    for number in range(1, 4):
        story.append(Paragraph(f"Chapter {number}: the mill", styles["Heading1"]))
        story.append(Paragraph(f"This is page {number}. Körner. " + "The stone turns slowly. " * 30, styles["Normal"]))
        story.append(PageBreak())
    SimpleDocTemplate(str(HERE / "three-pages.pdf"), title="Three pages", invariant=1).build(story)
    writer = PdfWriter(clone_from=HERE / "three-pages.pdf")
    writer.encrypt("secret", algorithm="AES-256")
    writer.write(HERE / "locked.pdf")
    (HERE / "truncated.pdf").write_bytes((HERE / "three-pages.pdf").read_bytes()[:900])
    page = canvas.Canvas(str(HERE / "scan.pdf"), invariant=1)
    page.rect(100, 100, 300, 300, fill=1)  # a picture of something, and no text
    page.showPage()
    page.rect(100, 100, 300, 300)
    page.save()


def make_office() -> None:
    document = docx.Document()
    document.add_heading("Prices", 1)
    document.add_paragraph("Ünïcode 谷物 \U0001f33e and a table:")
    table = document.add_table(2, 2)
    for row in range(2):
        for column in range(2):
            table.cell(row, column).text = f"cell {row}{column}"
    buffer = io.BytesIO()
    document.save(buffer)
    (HERE / "table.docx").write_bytes(buffer.getvalue())
    office = msoffcrypto.format.ooxml.OOXMLFile(io.BytesIO(buffer.getvalue()))
    with (HERE / "locked.docx").open("wb") as file:
        office.encrypt("secret", file)
    slides = pptx.Presentation()
    for number in range(1, 4):
        slide = slides.slides.add_slide(slides.slide_layouts[1])
        slide.shapes.title.text = f"Slide {number}"
        slide.placeholders[1].text = f"Grain {number} 谷物"
        if number == 2:
            grid = slide.shapes.add_table(1, 2, Inches(1), Inches(4), Inches(4), Inches(1)).table
            grid.cell(0, 0).text, grid.cell(0, 1).text = "left", "right"
            slide.notes_slide.notes_text_frame.text = "Say this aloud"
    order = slides.slides._sldIdLst
    order.insert(0, order[2])  # the third slide is shown first, so that file names and order differ
    slides.save(HERE / "slides.pptx")
    book = openpyxl.Workbook()
    book.active.title = "Prices"
    for row in (["item", "price"], ["flour", 3.5], ["two\nlines | pipe", 4]):
        book.active.append(row)
    book.create_sheet("Second").append(["x", "y"])
    book.save(HERE / "sheets.xlsx")


if __name__ == "__main__":
    make_pdfs()
    make_office()
